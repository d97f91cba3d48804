"""A client at the broker that publishes what it is told and hears what ingest answers."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from deploy.local.broker import Broker
from protocols import committed, topics
from protocols.committed import Committed
from tests.support.fake_agent import FakeAgent, Sent
from tests.support.waiting import wait_until


class Publisher:
    """Connected while its block lasts; publishes with QoS 1 and notes all committed messages."""

    def __init__(self, broker: Broker) -> None:
        self._lock = threading.Lock()
        self._heard: list[tuple[str, Committed]] = []
        self._subscribed = threading.Event()
        protocol = mqtt.MQTTv5 if broker.mqtt_version == 5 else mqtt.MQTTv311
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self._client.max_inflight_messages_set(1000)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._address = (broker.host, broker.port)

    def __enter__(self) -> Self:
        self._client.connect(*self._address)
        self._client.loop_start()
        if not self._subscribed.wait(20):
            raise TimeoutError(f"no broker at {self._address}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(topics.committed("+", "+"), 1)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        with self._lock:
            self._heard.append((message.topic, committed.decode(bytes(message.payload))))

    def send(self, *messages: Sent, retain: bool = False) -> None:
        """Publish messages and wait until the broker has them."""
        infos = [self._client.publish(message.topic, message.payload, 1, retain) for message in messages]
        for info in infos:
            info.wait_for_publish(60)

    def heard(self, agent: FakeAgent) -> list[Committed]:
        """What was said to an agent so far."""
        topic = topics.committed(agent.tenant, agent.name)
        with self._lock:
            return [message for where, message in self._heard if where == topic]

    def covered(self, agent: FakeAgent) -> set[int]:
        """Seqs of the agent's epoch that the newest message about it covers."""
        states = [message.epochs[agent.epoch] for message in self.heard(agent) if agent.epoch in message.epochs]
        if not states:
            return set()
        newest = max(states, key=lambda state: state.position)
        return {seq for seq in range(1, agent.seq + 1) if newest.covers(seq)}

    def wait_covered(self, agent: FakeAgent, seqs: set[int] | None = None) -> None:
        """Wait until the agent has been told that seqs are committed: all so far, or those given."""
        wanted = seqs if seqs is not None else set(range(1, agent.seq + 1))
        wait_until(
            lambda: wanted <= self.covered(agent), f"{agent.name} hears that {len(wanted)} messages are committed"
        )
