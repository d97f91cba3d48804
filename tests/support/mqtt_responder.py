"""A tiny MQTT 5 broker for one client that refuses, withholds or limits, as a test wants it."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType
from typing import BinaryIO, Self

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = 1, 2, 3, 4, 8, 9, 12, 13, 14


class MqttResponder:
    """Listens on loopback while its block lasts.

    Attributes
    ----------
    connack, suback, puback
        Reason codes that it answers with; None: no answer. `puback` may depend on the topic.
    receive_maximum
        What it says it takes unacknowledged; None: nothing said.
    """

    def __init__(self) -> None:
        self.connack: int | None = 0
        self.suback: int | None = 1
        self.puback: dict[str, int | None] = {}
        self.receive_maximum: int | None = None
        self.connections = 0
        self.published: list[str] = []
        self.withheld: list[int] = []
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
        for held in self._held:
            try:
                held.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(10)
        for held in self._held:
            held.close()

    def release(self) -> None:
        """Acknowledge what was withheld."""
        while self.withheld:
            self._held[-1].sendall(_packet(PUBACK, struct.pack(">H", self.withheld.pop(0))))

    def send(self, topic: str, payload: bytes) -> None:
        """Publish to the client, QoS 0."""
        name = topic.encode()
        self._held[-1].sendall(_packet(PUBLISH, struct.pack(">H", len(name)) + name + b"\0" + payload))

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
            self.connections += 1
            self._held.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        try:
            while True:
                head = reader.read(1)
                if not head:
                    return
                body = reader.read(_length(reader))
                self._answer(connection, head[0] >> 4, head[0] & 15, body)
        except OSError:
            return
        finally:
            reader.close()

    def _answer(self, connection: socket.socket, kind: int, flags: int, body: bytes) -> None:
        if kind == CONNECT:
            self.withheld.clear()
        if kind == CONNECT and self.connack is not None:
            limit = b"" if self.receive_maximum is None else b"\x21" + struct.pack(">H", self.receive_maximum)
            connection.sendall(_packet(CONNACK, bytes([0, self.connack, len(limit)]) + limit))
        elif kind == SUBSCRIBE and self.suback is not None:
            connection.sendall(_packet(SUBACK, body[:2] + bytes([0, self.suback])))
        elif kind == PUBLISH:
            size = struct.unpack(">H", body[:2])[0]
            topic = body[2 : 2 + size].decode()
            (mid,) = struct.unpack(">H", body[2 + size : 4 + size])
            self.published.append(topic)
            channel = topic.split("/")[4]
            code = self.puback.get(channel, 0)
            if code is None:
                self.withheld.append(mid)
            else:
                connection.sendall(_packet(PUBACK, struct.pack(">HBB", mid, code, 0)))
        elif kind == PINGREQ:
            connection.sendall(_packet(PINGRESP, b""))


def _packet(kind: int, body: bytes) -> bytes:
    size, length = len(body), b""
    while size >= 128:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([kind << 4]) + length + bytes([size]) + body


def _length(reader: BinaryIO) -> int:
    size = shift = 0
    while True:
        byte = reader.read(1)[0]
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return size
