"""One connection to the broker: a paho client that is used once and thrown away.

A new client for each connection keeps paho from re-sending what it remembers, without regard to our window.
Its callbacks run on its network thread and only put an event into a queue.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.config import Mqtt
from edge_agent.errors import EdgeError

_log = logging.getLogger(__name__)
_CONNECT_TIMEOUT_S = 5.0
_GOODBYE_S = 1.0
_MOST = 65_535


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker has accepted the connection; most messages it takes without acknowledging them."""

    receive_maximum: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker has refused the connection or the subscription."""

    reason: str


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The subscription holds."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker has taken a message, or not: then there is a reason."""

    mid: int
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Message:
    """A message for us."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone."""

    reason: str


Event = Connected | Refused | Subscribed | Acknowledged | Message | Lost


class LinkError(EdgeError):
    """The connection to the broker cannot be made or used."""


class Link:
    """A connection to the broker.

    Parameters
    ----------
    settings
        The broker.
    client_id
        Of this process.
    will
        Topic and payload that the broker publishes, retained, when the connection is lost.
    notify
        Gets events; called on the network thread.

    Raises
    ------
    LinkError
        If the broker can't be reached.
    """

    def __init__(
        self, settings: Mqtt, client_id: str, will: tuple[str, bytes], notify: Callable[[Event], None]
    ) -> None:
        protocol = mqtt.MQTTv5 if settings.version == 5 else mqtt.MQTTv311
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol, reconnect_on_failure=False
        )
        self._client = client
        self._notify = notify
        self._gone = threading.Event()
        client.connect_timeout = _CONNECT_TIMEOUT_S
        # Our own window is what bounds it.
        client.max_inflight_messages_set(_MOST)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.will_set(will[0], will[1], qos=1, retain=True)
        try:
            _authenticate(client, settings)
            extra: dict[str, Any] = {"clean_start": True} if settings.version == 5 else {}
            client.connect(settings.host, settings.port, keepalive=settings.keepalive_s, **extra)
        except (OSError, ValueError) as error:
            raise LinkError(f"{settings.host}:{settings.port}: {error}") from error
        client.loop_start()

    def subscribe(self, topic: str) -> None:
        """Subscribe with QoS 1; `Subscribed` or `Refused` follows."""
        code, _ = self._client.subscribe(topic, qos=1)
        if code != mqtt.MQTT_ERR_SUCCESS:
            raise LinkError(mqtt.error_string(code))

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> int:
        """Publish with QoS 1; `Acknowledged` with the id returned follows."""
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc != mqtt.MQTT_ERR_SUCCESS:
            raise LinkError(mqtt.error_string(info.rc))
        return info.mid

    def close(self) -> None:
        """Say goodbye; the broker forgets the last will."""
        self._silence()
        if self._client.disconnect() == mqtt.MQTT_ERR_SUCCESS:
            self._gone.wait(_GOODBYE_S)
        self._stop()

    def abandon(self) -> None:
        """Drop the connection without a word; the broker publishes the last will."""
        self._silence()
        self._stop()

    def _silence(self) -> None:
        self._notify = _ignore

    def _stop(self) -> None:
        # A thread that waits for a dead broker is woken by its socket, not by a flag.
        held = self._client.socket()
        if isinstance(held, socket.socket):
            try:
                held.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                _log.debug("closing the connection to the broker: %s", error)
        self._client.loop_stop()

    # On the network thread

    def _on_connect(self, _c: mqtt.Client, _d: Any, _f: Any, code: ReasonCode, properties: Properties | None) -> None:
        if code.is_failure:
            self._notify(Refused(str(code)))
            return
        limit = getattr(properties, "ReceiveMaximum", _MOST) if properties is not None else _MOST
        self._notify(Connected(int(limit)))

    def _on_subscribe(
        self, _c: mqtt.Client, _d: Any, _mid: int, codes: list[ReasonCode], _p: Properties | None
    ) -> None:
        refused = [str(code) for code in codes if code.is_failure]
        self._notify(Refused(f"subscription: {refused[0]}") if refused else Subscribed())

    def _on_publish(self, _c: mqtt.Client, _d: Any, mid: int, code: ReasonCode, _p: Properties | None) -> None:
        self._notify(Acknowledged(mid, str(code) if code.is_failure else None))

    def _on_message(self, _c: mqtt.Client, _d: Any, message: mqtt.MQTTMessage) -> None:
        self._notify(Message(bytes(message.payload)))

    def _on_disconnect(self, _c: mqtt.Client, _d: Any, _f: Any, code: ReasonCode, _p: Properties | None) -> None:
        self._gone.set()
        self._notify(Lost(str(code)))


def _ignore(_event: Event) -> None:
    """What is still said on a connection that was given up."""


def _authenticate(client: mqtt.Client, settings: Mqtt) -> None:
    password = None
    if settings.password_file is not None:
        password = settings.password_file.read_text(encoding="utf-8").rstrip("\r\n")
    elif settings.password_env is not None:
        password = os.environ.get(settings.password_env)
        if password is None:
            raise ValueError(f"environment variable {settings.password_env} is not set")
    if settings.username is not None:
        client.username_pw_set(settings.username, password)
    if settings.tls is not None:
        context = ssl.create_default_context(cafile=settings.tls.ca_file)
        if settings.tls.certificate_file is not None:
            context.load_cert_chain(settings.tls.certificate_file, settings.tls.key_file)
        client.tls_set_context(context)
