"""A tiny MQTT broker for one client at a time that refuses, withholds, limits or falls silent, as a test wants it."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Literal, Self

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = 1, 2, 3, 4, 8, 9, 12, 13, 14


@dataclass
class Connection:
    """What a client did on one connection.

    Attributes
    ----------
    version
        Protocol level in its greeting: 5, or 4 for 3.1.1.
    topics, sizes, repeated
        Of each message: its topic, the length of its packet [B], whether it was marked as a duplicate.
    farewell
        Whether it said goodbye.
    serial
        Serial number of its certificate.
    """

    version: int = 0
    topics: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    repeated: list[bool] = field(default_factory=list)
    farewell: bool = False
    serial: str = ""


class MqttResponder:
    """Listens on loopback while its block lasts.

    Parameters
    ----------
    tls
        Certificate and authorities; None: without TLS.

    Attributes
    ----------
    connack, suback, puback
        Reason codes that it answers with; None: no answer. `puback` may depend on the topic.
    versions
        Protocol levels that it takes.
    to_other_versions
        What the others get: a refusal as in MQTT 5 or as in 3.1.1, or no answer but the connection's end.
    receive_maximum, maximum_packet_size
        What it says it takes; None: nothing said.
    seen
        What clients did, one entry for each connection that began with a greeting.
    closes_above, ignores_above
        Closes the connection over packets longer than this, or never answers them [B]; None: none.
    message_s
        How long it takes over a message [s].
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.connack: int | None = 0
        self.suback: int | None = 1
        self.puback: dict[str, int | None] = {}
        self.versions = {4, 5}
        self.to_other_versions: Literal["refuse", "refuse in 3.1.1", "close"] = "refuse"
        self.receive_maximum: int | None = None
        self.maximum_packet_size: int | None = None
        self.closes_above: int | None = None
        self.ignores_above: int | None = None
        self.message_s = 0.0
        self.seen: list[Connection] = []
        self.published: list[str] = []
        self.withheld: list[int] = []
        self._tls = tls
        self._held: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        deadline = time.monotonic() + 10
        # A connection may have been taken just now, and not be held yet.
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < deadline:
            self.hang_up()
            for thread in self._threads:
                thread.join(0.05)
        for held in self._held:
            held.close()

    @property
    def connections(self) -> int:
        """How many were made."""
        return len(self._held)

    def hang_up(self) -> None:
        """End all connections."""
        for held in self._held:
            try:
                held.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def release(self) -> None:
        """Acknowledge what was withheld."""
        while self.withheld:
            self._held[-1].sendall(_packet(PUBACK, struct.pack(">H", self.withheld.pop(0))))

    def send(self, topic: str, payload: bytes) -> None:
        """Publish to the client, QoS 0."""
        name = topic.encode()
        properties = b"\0" if self.seen[-1].version == 5 else b""
        self._held[-1].sendall(_packet(PUBLISH, struct.pack(">H", len(name)) + name + properties + payload))

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._start(self._greet, connection)

    def _greet(self, plain: socket.socket) -> None:
        connection = plain
        seen = Connection()
        if self._tls is not None:
            secured = self._tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            self._held.append(secured)
            try:
                secured.do_handshake()
            except OSError:
                _let_it_read(secured)
                return
            seen.serial = str((secured.getpeercert() or {}).get("serialNumber", ""))
            connection = secured
        else:
            self._held.append(plain)
        self._serve(connection, seen)

    def _serve(self, connection: socket.socket, seen: Connection) -> None:
        reader = connection.makefile("rb")
        try:
            while True:
                head = reader.read(1)
                if not head:
                    return
                body = reader.read(_length(reader))
                if not self._answer(connection, seen, head[0], body):
                    connection.shutdown(socket.SHUT_RDWR)
                    return
        except OSError:
            return
        finally:
            reader.close()

    def _answer(self, connection: socket.socket, seen: Connection, head: int, body: bytes) -> bool:
        """Answer a packet; returns whether the connection goes on."""
        kind = head >> 4
        if kind == CONNECT:
            return self._welcome(connection, seen, body)
        if kind == SUBSCRIBE and self.suback is not None:
            none = b"\0" if seen.version == 5 else b""
            connection.sendall(_packet(SUBACK, body[:2] + none + bytes([self.suback])))
        elif kind == PUBLISH:
            return self._take(connection, seen, head, body)
        elif kind == PINGREQ:
            connection.sendall(_packet(PINGRESP, b""))
        elif kind == DISCONNECT:
            seen.farewell = True
        return True

    def _welcome(self, connection: socket.socket, seen: Connection, body: bytes) -> bool:
        if len(body) < 7:
            # No greeting at all.
            return False
        seen.version = body[6]
        self.seen.append(seen)
        self.withheld.clear()
        if seen.version not in self.versions:
            if self.to_other_versions != "close":
                in_5 = self.to_other_versions == "refuse" and seen.version == 5
                connection.sendall(_packet(CONNACK, b"\0\x84\0" if in_5 else b"\0\x01"))
            return False
        if self.connack is None:
            return True
        properties = b""
        if self.receive_maximum is not None:
            properties += b"\x21" + struct.pack(">H", self.receive_maximum)
        if self.maximum_packet_size is not None:
            properties += b"\x27" + struct.pack(">I", self.maximum_packet_size)
        more = bytes([len(properties)]) + properties if seen.version == 5 else b""
        connection.sendall(_packet(CONNACK, bytes([0, self.connack]) + more))
        return True

    def _take(self, connection: socket.socket, seen: Connection, head: int, body: bytes) -> bool:
        size = struct.unpack(">H", body[:2])[0]
        topic = body[2 : 2 + size].decode()
        seen.topics.append(topic)
        packet = 1 + len(_packed_length(len(body))) + len(body)
        seen.sizes.append(packet)
        seen.repeated.append(bool(head & 8))
        if self.closes_above is not None and packet > self.closes_above:
            return False
        ignored = self.ignores_above is not None and packet > self.ignores_above
        self.published.append(topic)
        if ignored or not head & 6:
            return True
        time.sleep(self.message_s)
        (mid,) = struct.unpack(">H", body[2 + size : 4 + size])
        channel = topic.split("/")[4]
        code = self.puback.get(channel, 0)
        if code is None:
            self.withheld.append(mid)
        else:
            more = bytes([code, 0]) if seen.version == 5 else b""
            connection.sendall(_packet(PUBACK, struct.pack(">H", mid) + more))
        return True


def _let_it_read(refused: ssl.SSLSocket) -> None:
    """Close a connection so that the other side hears why: at once, it would only see that it is reset."""
    try:
        refused.shutdown(socket.SHUT_WR)
        while refused.recv(4096):
            continue
    except OSError:
        return


def _packet(kind: int, body: bytes) -> bytes:
    return bytes([kind << 4]) + _packed_length(len(body)) + body


def _packed_length(size: int) -> bytes:
    length = b""
    while size >= 128:
        length += bytes([size & 127 | 128])
        size >>= 7
    return length + bytes([size])


def _length(reader: BinaryIO) -> int:
    size = shift = 0
    while True:
        byte = reader.read(1)[0]
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return size
