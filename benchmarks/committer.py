"""What ingest is to an agent, and no more: takes messages and says now and then that they are committed."""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.errors import BenchmarkError
from deploy.local.broker import Broker
from protocols import session, topics, wire
from protocols.committed import Committed, EpochState

_ANNOUNCE_S = 0.5


class Committer:
    """Connected while its block lasts; all that comes counts as committed.

    Attributes
    ----------
    messages, readings
        How many came.
    """

    def __init__(self, broker: Broker) -> None:
        self.messages = 0
        self.readings = 0
        self._broker = broker
        self._lock = threading.Lock()
        self._subscribed = threading.Event()
        self._stop = threading.Event()
        self._through: defaultdict[str, int] = defaultdict(int)
        self._beyond: defaultdict[str, set[int]] = defaultdict(set)
        self._touched: set[str] = set()
        self._agent = ("", "")
        self._position = 0
        self._incarnation = (uuid.uuid4().hex, time.time_ns() // 1000)
        self._announcer = threading.Thread(target=self._announce, name="announcer")
        protocol = mqtt.MQTTv5 if broker.mqtt_version == 5 else mqtt.MQTTv311
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self._client.on_connect = lambda client, *_: client.subscribe([(name, 1) for name in topics.UPSTREAM_FILTERS])
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._client.connect(self._broker.host, self._broker.port)
        self._client.loop_start()
        if not self._subscribed.wait(20):
            raise BenchmarkError(f"no broker at {self._broker.host}:{self._broker.port}")
        self._announcer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._announcer.join()
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()  # noqa: SLF001 (else its wake-up sockets stay open until memory is tidied up)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        topic = topics.parse(message.topic)
        payload = bytes(message.payload)
        with self._lock:
            self._agent = (topic.tenant, topic.agent)
            if topic.channel == "session":
                record = session.decode(payload)
                if record.state == "online":
                    self._say(set(record.epochs), record.session)
                return
            document = wire.loads(payload, topic.channel)
            key = wire.key(document, topic.channel)
            self.messages += 1
            self.readings += sum(len(document[group]["p"]) for group in ("f", "i", "b", "s") if group in document)
            self._beyond[key.epoch].add(key.seq)
            self._touched.add(key.epoch)

    def _announce(self) -> None:
        while not self._stop.wait(_ANNOUNCE_S):
            with self._lock:
                if self._touched:
                    self._say(self._touched)
                    self._touched = set()

    def _say(self, epochs: set[str], answers: str = "") -> None:
        self._position += 1
        states = {}
        for epoch in epochs:
            beyond = self._beyond[epoch]
            while self._through[epoch] + 1 in beyond:
                self._through[epoch] += 1
                beyond.remove(self._through[epoch])
            beyond -= {seq for seq in beyond if seq <= self._through[epoch]}
            through = self._through[epoch]
            spans = tuple((seq, seq) for seq in sorted(beyond))
            states[epoch] = EpochState(self._position if through or spans else 0, through, spans)
        message = Committed(*self._incarnation, states, answers)
        self._client.publish(topics.committed(*self._agent), message.encode(), qos=1)
