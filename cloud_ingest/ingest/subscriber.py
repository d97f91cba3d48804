"""The client at the broker: persistent session, manual acknowledgements, publishing of committed messages.

Invariants

- `on_message` only puts into the inbox; nothing here waits for the database.
- The session outlives us, so that what comes while we are away waits at the broker.
- With version 5 the broker has at most `receive_maximum` messages in flight to us; with MQTT 3.1.1 its own limit
  holds, and what does not fit into the inbox is let go and asked for again by connecting anew.
- An acknowledgement is sent on the connection that its message came by, or not at all.
- Committed messages are published only while connected: the client would keep others without bound.
"""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from cloud_ingest.ingest.config import MqttConfig
from cloud_ingest.ingest.inbox import Delivery, Inbox
from cloud_ingest.signals import Signals
from cloud_ingest.store.config import read_secret
from protocols import topics

_log = logging.getLogger(__name__)

QOS = 1
RECONNECT_S = (1, 10)
"""Shortest and longest wait before connecting again [s]."""
MAX_QUEUED = 10_000
"""Most committed messages that wait for their acknowledgement by the broker."""


class Subscriber:
    """Takes messages from the broker into an inbox.

    Parameters
    ----------
    config
        The broker.
    inbox
        Where messages go, and acknowledgements come from.
    signals
        Counters.
    """

    def __init__(self, config: MqttConfig, inbox: Inbox, signals: Signals) -> None:
        self._config = config
        self._inbox = inbox
        self._signals = signals
        inbox.acknowledge = self._acknowledge
        inbox.recover = self._drop_connection
        self._client = _client(config)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def start(self) -> None:
        """Connect in the background, again and again if need be."""
        config = self._config
        if config.version == 5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = config.session_expiry_s
            properties.ReceiveMaximum = config.receive_maximum
            self._client.connect_async(
                config.host, config.port, config.keepalive_s, clean_start=False, properties=properties
            )
        else:
            self._client.connect_async(config.host, config.port, config.keepalive_s)
        self._client.loop_start()

    def stop(self) -> None:
        """Send what is to be sent, disconnect in order, and end the network thread."""
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()  # noqa: SLF001 (else its wake-up sockets stay open until memory is tidied up)

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us."""
        return self._client.is_connected()

    def publish(self, topic: str, payload: bytes) -> bool:
        """Publish a message if connected; whether it went out."""
        if not self._client.is_connected():
            return False
        return self._client.publish(topic, payload, QOS).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def filters(self) -> list[str]:
        """What is subscribed to.

        Session records are not shared between the workers of a group: a shared subscription gets no retained
        messages, and an agent may have announced itself while no worker was there.
        """
        group = self._config.group
        if group is None:
            return list(topics.UPSTREAM_FILTERS)
        return [f if f.endswith("/session") else f"$share/{group}/{f}" for f in topics.UPSTREAM_FILTERS]

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        if reason.is_failure:
            self._signals.warn("disconnections", "broker refused", str(reason), host=self._config.host)
            return
        self._signals.count("connections", "broker")
        _log.info("connected to %s:%d", self._config.host, self._config.port)
        if self._config.version == 5:
            # Retained messages only for a new subscription: an old one has had them.
            options = SubscribeOptions(qos=QOS, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
            client.subscribe([(f, options) for f in self.filters()])
        else:
            client.subscribe([(f, QOS) for f in self.filters()])

    def _on_connect_fail(self, _client: mqtt.Client, _data: Any) -> None:
        self._signals.warn("disconnections", "broker away", f"{self._config.host}:{self._config.port} does not answer")

    def _on_disconnect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        waiting = self._inbox.reset()
        if waiting:
            self._signals.count("dropped_messages", "connection lost", waiting)
        if reason.is_failure:
            self._signals.warn("disconnections", "broker", str(reason), host=self._config.host)

    def _on_subscribe(self, _client: mqtt.Client, _data: Any, _mid: int, reasons: list[ReasonCode], _p: Any) -> None:
        for pattern, reason in zip(self.filters(), reasons, strict=False):
            if reason.is_failure:
                _log.error("the broker refuses the subscription to %s: %s", pattern, reason, extra={"filter": pattern})

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "(a topic that is not UTF-8)"
        if message.dup:
            self._signals.count("redelivered")
        if not self._inbox.put(topic, bytes(message.payload), message.mid, message.qos):
            self._signals.count("dropped_messages", "draining" if self._inbox.closed else "inbox full")

    def _acknowledge(self, delivery: Delivery) -> None:
        self._client.ack(delivery.mid, delivery.qos)

    def _drop_connection(self) -> None:
        """Break the connection, so that the broker sends again what was let go."""
        self._signals.warn("disconnections", "inbox was full", "connecting anew for the messages let go")
        found = self._client.socket()
        if isinstance(found, socket.socket):
            try:
                found.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                _log.info("the connection was gone already: %s", error)


def _client(config: MqttConfig) -> mqtt.Client:
    if config.version == 5:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, config.client_id, protocol=mqtt.MQTTv5, manual_ack=True)
    else:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            config.client_id,
            clean_session=False,
            protocol=mqtt.MQTTv311,
            manual_ack=True,
        )
    client.reconnect_delay_set(*RECONNECT_S)
    client.max_queued_messages_set(MAX_QUEUED)
    if config.username is not None:
        password = None if config.password_file is None else read_secret(config.password_file)
        client.username_pw_set(config.username, password)
    if config.tls is not None:
        tls = config.tls
        client.tls_set(_name(tls.ca_file), _name(tls.cert_file), _name(tls.key_file))
    return client


def _name(file: Path | None) -> str | None:
    return None if file is None else str(file)
