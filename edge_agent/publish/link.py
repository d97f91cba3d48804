"""One connection to the broker: a paho client that is used once and thrown away.

A new client for each connection keeps paho from re-sending what it remembers, without regard to our window.
Its callbacks run on its network thread and only put an event into a queue. Whatever ends that thread, the last
event is that the connection is lost.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.config import Mqtt
from edge_agent.errors import EdgeError
from edge_agent.publish import credentials

_log = logging.getLogger(__name__)
_CONNECT_TIMEOUT_S = 5.0
_GOODBYE_S = 1.0
_MOST = 65_535
_MOST_BYTES = 268_435_460
"""Largest packet of the protocol."""
_PACKET_BYTES = 1 + 4 + 2 + 2 + 1
"""What a message takes besides topic and payload: head, length, topic's length, id, no properties."""
_WRONG_VERSION = "Unsupported protocol version"
_WRONG_USER = ("Bad user name or password", "Not authorized")
_UNSPECIFIED = "Unspecified error"


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker has accepted the connection; most messages it takes without acknowledging them."""

    receive_maximum: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker has refused the connection or the subscription; perhaps because of the protocol's version."""

    reason: str
    version: bool = False


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
    """The connection is gone; perhaps the broker has closed it without an answer to our greeting."""

    reason: str
    unanswered: bool = False


Event = Connected | Refused | Subscribed | Acknowledged | Message | Lost


class LinkError(EdgeError):
    """The connection to the broker cannot be made or used."""


class TooLargeError(LinkError):
    """The broker does not take messages of this size."""


class _Client(mqtt.Client):
    """A client that says so when its network thread ends for another reason than the connection's end."""

    on_failure: Callable[[Exception], None]

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except Exception as error:  # noqa: BLE001 (whatever it is, the connection must be made anew)
            _log.exception("the connection to the broker has failed")
            self.on_failure(error)
            return MQTTErrorCode.MQTT_ERR_UNKNOWN


class Link:
    """A connection to the broker.

    Parameters
    ----------
    settings
        The broker.
    version
        Of the protocol: 5, or 3 for 3.1.1.
    client_id
        Of this process.
    will
        Topic and payload that the broker publishes, retained, when the connection is lost.
    notify
        Gets events; called on the network thread.

    Raises
    ------
    LinkError
        If the broker can't be reached, or the agent's credentials can't be used.
    """

    def __init__(
        self,
        settings: Mqtt,
        version: int,
        client_id: str,
        will: tuple[str, bytes],
        notify: Callable[[Event], None],
    ) -> None:
        self.version = version
        protocol = mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311
        client = _Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol, reconnect_on_failure=False
        )
        self._client = client
        self._notify = notify
        self._user = settings.username
        self._gone = threading.Event()
        self._greeted = False
        self._trouble = ""
        self._most_bytes = _MOST_BYTES
        client.connect_timeout = _CONNECT_TIMEOUT_S
        # Our own window is what bounds it.
        client.max_inflight_messages_set(_MOST)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.on_log = self._on_log
        client.on_failure = self._on_failure
        client.will_set(will[0], will[1], qos=1, retain=True)
        try:
            password = credentials.password(settings)
            if settings.username is not None:
                client.username_pw_set(settings.username, password)
            if settings.tls is not None:
                client.tls_set_context(credentials.tls_context(settings.tls))
            extra: dict[str, Any] = {"clean_start": True} if version == 5 else {}
            client.connect(settings.host, settings.port, keepalive=settings.keepalive_s, **extra)
        except (OSError, ValueError) as error:
            self._let_go()
            raise LinkError(f"{settings.host}:{settings.port}: {error}") from error
        except credentials.CredentialsError as error:
            self._let_go()
            raise LinkError(str(error)) from error
        client.loop_start()

    def subscribe(self, topic: str) -> None:
        """Subscribe with QoS 1; `Subscribed` or `Refused` follows."""
        code, _ = self._client.subscribe(topic, qos=1)
        if code != mqtt.MQTT_ERR_SUCCESS:
            raise LinkError(mqtt.error_string(code))

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> int:
        """Publish with QoS 1; `Acknowledged` with the id returned follows.

        Raises
        ------
        TooLargeError
            If the broker has said that it takes no such packet; it would close the connection.
        LinkError
            If the connection is gone.
        """
        size = _PACKET_BYTES + len(topic.encode()) + len(payload)
        if size > self._most_bytes:
            raise TooLargeError(f"{size} bytes; allowed by the broker: {self._most_bytes}")
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc != mqtt.MQTT_ERR_SUCCESS:
            raise LinkError(mqtt.error_string(info.rc))
        return info.mid

    def tell(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 0: nobody answers, and what does not arrive is not missed."""
        self._client.publish(topic, payload, qos=0)

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
        self._let_go()

    def _let_go(self) -> None:
        """Forget each other, so that the client's sockets are closed at once and not when memory is tidied up."""
        client = self._client
        client.on_connect = client.on_subscribe = client.on_publish = None
        client.on_message = client.on_disconnect = client.on_log = None
        client.on_failure = _ignore_failure
        client._reset_sockets()  # noqa: SLF001 (else its wake-up sockets stay open until memory is tidied up)

    # On the network thread

    def _on_connect(self, _c: mqtt.Client, _d: Any, _f: Any, code: ReasonCode, properties: Properties | None) -> None:
        self._greeted = True
        if code.is_failure:
            reason = str(code)
            who = f" of user {self._user!r}" if reason in _WRONG_USER else ""
            self._notify(Refused(f"the broker refuses the connection{who}: {reason}", reason == _WRONG_VERSION))
            return
        limit = getattr(properties, "ReceiveMaximum", _MOST)
        self._most_bytes = min(int(getattr(properties, "MaximumPacketSize", _MOST_BYTES)), _MOST_BYTES)
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
        reason = str(code)
        if reason == _UNSPECIFIED:
            reason = self._trouble or "the broker closed the connection"
        # With 3.1.1 a refusal of the version comes this way too: paho does not pass it on.
        self._notify(Lost(reason, unanswered=not self._greeted and "[SSL" not in self._trouble))

    def _on_log(self, _c: mqtt.Client, _d: Any, level: int, message: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._trouble = message

    def _on_failure(self, error: Exception) -> None:
        self._gone.set()
        self._notify(Lost(f"the network thread failed: {error!r}"))


def _ignore_failure(_error: Exception) -> None:
    """What a client that was given up fails of."""


def _ignore(_event: Event) -> None:
    """What is still said on a connection that was given up."""
