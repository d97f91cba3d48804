"""What ingest is to an agent, in memory: notes every message, and says what is committed."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.buffer import ranges
from protocols import birth, gap, session, topics
from protocols.committed import Committed, EpochState
from protocols.payload import registry
from protocols.reading import Batch, digest
from protocols.session import Session

Key = tuple[str, int]


class FakeStore:
    """Subscribes while its block lasts, again when the broker comes back.

    Attributes
    ----------
    answering
        Whether it says what it has; off, it is a store that is down.
    taking
        Which messages it commits.
    """

    def __init__(self, host: str, port: int, version: int = 5) -> None:
        self.answering = True
        self.taking: Callable[[Key], bool] = lambda _: True
        self.lock = threading.RLock()
        self.seen: Counter[Key] = Counter()
        self.digests: dict[Key, bytes] = {}
        self.batches: dict[Key, Batch] = {}
        self.births: dict[str, birth.Birth] = {}
        self.gaps: list[gap.Gap] = []
        self.sessions: list[Session] = []
        self.order: list[Key] = []
        self.conflicts: list[Key] = []
        self.keys: set[Key] = set()
        self._position = 0
        self._incarnation = (uuid.uuid4().hex, time.time_ns() // 1000)
        self._address = (host, port)
        self._ready = threading.Event()
        protocol = mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._client.connect(*self._address)
        self._client.loop_start()
        if not self._ready.wait(20):
            raise TimeoutError(f"no broker at {self._address}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()

    def restore(self, keys: set[Key]) -> None:
        """Go back to an older state, under a new incarnation."""
        with self.lock:
            self.keys = set(keys)
            self._position = 0
            self._incarnation = (uuid.uuid4().hex, time.time_ns() // 1000)

    def say(self, epochs: set[str], answers: str = "") -> None:
        """Send what is committed of some epochs."""
        with self.lock:
            self._position += 1
            entries = {}
            for epoch in epochs:
                spans = ranges.from_seqs(seq for name, seq in self.keys if name == epoch)
                through = spans[0][1] if spans and spans[0][0] == 1 else 0
                beyond = spans[1:] if through else spans
                entries[epoch] = EpochState(self._position if spans else 0, through, beyond)
            message = Committed(*self._incarnation, entries, answers)
        agent = self.sessions[-1]
        self._client.publish(topics.committed(agent.tenant, agent.agent), message.encode(), qos=1)

    def readings(self) -> list[tuple[str, int, Any, int]]:
        """Readings that came, each once: full name, time, value, quality."""
        with self.lock:
            schemas = {found.schema.id(): found.schema for found in self.births.values()}
            return [
                (schemas[batch.schema_id].name_of(point), batch.base_us + offset, value, quality)
                for batch in self.batches.values()
                for group in batch.columns.values()
                for point, offset, value, quality in zip(
                    group.points, group.offsets_us, group.values, group.qualities or [0] * len(group), strict=True
                )
            ]

    def reading_count(self) -> int:
        """How many readings came, each counted once."""
        with self.lock:
            return sum(map(len, self.batches.values()))

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe([(topic, 1) for topic in topics.UPSTREAM_FILTERS])

    def _on_subscribe(self, *_: Any) -> None:
        self._ready.set()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        topic = topics.parse(message.topic)
        payload = bytes(message.payload)
        if topic.channel == "session":
            found = session.decode(payload)
            with self.lock:
                self.sessions.append(found)
            if found.state == "online" and self.answering:
                self.say(set(found.epochs), found.session)
            return
        with self.lock:
            key = self._note(topic, payload)
            if not self.taking(key):
                return
            self.keys.add(key)
            if topic.channel == "gap":
                for epoch, spans in gap.decode(payload).dropped.items():
                    self.keys |= {(epoch, seq) for first, last in spans for seq in range(first, last + 1)}
        if self.answering and self.sessions:
            self.say({key[0]})

    def _note(self, topic: topics.Topic, payload: bytes) -> Key:
        if topic.channel == "data":
            batch = registry.codec(topic.detail).decode(payload)
            key = batch.key.epoch, batch.key.seq
            self.batches[key] = batch
        elif topic.channel == "birth":
            found = birth.decode(payload)
            assert found.schema.id() == topic.detail
            key = found.key.epoch, found.key.seq
            self.births[topic.detail] = found
        else:
            lost = gap.decode(payload)
            key = lost.key.epoch, lost.key.seq
            self.gaps.append(lost)
        if self.digests.setdefault(key, digest(payload)) != digest(payload):
            self.conflicts.append(key)
        self.seen[key] += 1
        self.order.append(key)
        return key
