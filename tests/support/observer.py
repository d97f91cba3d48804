"""A bystander at the broker who notes the identity of each message from agents, so that redeliveries show."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Any, Self

import orjson
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from deploy.local.broker import Broker
from protocols import topics


class Observer:
    """Subscribes while its block lasts, and again after the broker comes back."""

    def __init__(self, broker: Broker) -> None:
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, int]] = Counter()
        self._connected = threading.Event()
        protocol = mqtt.MQTTv5 if broker.mqtt_version == 5 else mqtt.MQTTv311
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._address = (broker.host, broker.port)

    def __enter__(self) -> Self:
        self._client.connect(*self._address)
        self._client.loop_start()
        if not self._connected.wait(20):
            raise TimeoutError(f"no broker at {self._address}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe([(f"{topics.ROOT}/+/+/data/+", 0), (f"{topics.ROOT}/+/+/gap", 0)])
        self._connected.set()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        document = orjson.loads(message.payload)
        with self._lock:
            self._seen[document["epoch"], document["seq"]] += 1

    def messages(self) -> int:
        """How many messages went by."""
        with self._lock:
            return self._seen.total()

    def redelivered(self) -> int:
        """How many of them had gone by before."""
        with self._lock:
            return self._seen.total() - len(self._seen)
