"""Serial Modbus without hardware: pseudo-terminals, and a responder with framing of its own that can misbehave."""

from __future__ import annotations

import asyncio
import os
import struct
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from tests.support.modbus_responder import After, Reply

_REQUEST_BYTES = 8


def crc(body: bytes) -> bytes:
    """Checksum of a serial frame, bit by bit as the specification prints it."""
    value = 0xFFFF
    for byte in body:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value.to_bytes(2, "little")


@dataclass(frozen=True)
class Asked:
    """A read request as it came over the line."""

    unit: int
    function: int
    address: int
    count: int

    def answer(self, registers: Sequence[int], *, unit: int | None = None) -> bytes:
        """A frame with registers."""
        return self.frame(struct.pack(f">BB{len(registers)}H", self.function, 2 * len(registers), *registers), unit)

    def refusal(self, code: int) -> bytes:
        """A frame with an exception."""
        return self.frame(bytes([self.function | 0x80, code]))

    def frame(self, pdu: bytes, unit: int | None = None) -> bytes:
        """A frame around any bytes."""
        body = bytes([self.unit if unit is None else unit]) + pdu
        return body + crc(body)

    def counting(self) -> bytes:
        """Registers that hold their own address."""
        return self.answer([(self.address + n) & 0xFFFF for n in range(self.count)])


class Line(Protocol):
    """What answers are written to."""

    def write(self, data: bytes) -> None:
        """Send bytes."""
        ...


class SerialUnits:
    """The units of a line; `handler` decides about each request."""

    def __init__(self, handler: Callable[[Asked], Reply]) -> None:
        self.handler = handler
        self.asked: list[Asked] = []
        self.broken = 0
        self._received = b""
        self._timers: list[asyncio.TimerHandle] = []

    def receive(self, data: bytes, line: Line) -> None:
        """Take what came over the line, and answer."""
        self._received += data
        while len(self._received) >= _REQUEST_BYTES:
            frame, self._received = self._received[:_REQUEST_BYTES], self._received[_REQUEST_BYTES:]
            if crc(frame[:-2]) != frame[-2:]:
                self.broken += 1
                self._received = b""
                return
            asked = Asked(*struct.unpack(">BBHH", frame[:-2]))
            self.asked.append(asked)
            reply = self.handler(asked)
            for part in reply if isinstance(reply, list | tuple) else (reply,):
                if isinstance(part, After):
                    assert part.data is not None
                    loop = asyncio.get_running_loop()
                    self._timers.append(loop.call_later(part.delay_s, line.write, part.data))
                elif part is not None:
                    line.write(part)

    def cancel(self) -> None:
        """Send nothing any more."""
        for timer in self._timers:
            timer.cancel()


class PtyLine:
    """A serial port with units behind it, while its block lasts; `port` is for the agent."""

    def __init__(self, handler: Callable[[Asked], Reply]) -> None:
        self.units = SerialUnits(handler)
        self.port = ""
        self._near = self._far = -1

    async def __aenter__(self) -> Self:
        self._far, self._near = os.openpty()
        tty.setraw(self._near)
        self.port = os.ttyname(self._near)
        asyncio.get_running_loop().add_reader(self._far, self._readable)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unplug()

    def write(self, data: bytes) -> None:
        """Put bytes on the line."""
        if self._far >= 0:
            os.write(self._far, data)

    def unplug(self) -> None:
        """Take the port away."""
        if self._far >= 0:
            self.units.cancel()
            asyncio.get_running_loop().remove_reader(self._far)
            os.close(self._far)
            os.close(self._near)
            self._far = -1

    def _readable(self) -> None:
        self.units.receive(os.read(self._far, 4096), self)


class TcpLine:
    """A serial device server in transparent mode: the same frames over TCP."""

    def __init__(self, handler: Callable[[Asked], Reply]) -> None:
        self.units = SerialUnits(handler)
        self.port = 0
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.units.cancel()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while data := await reader.read(4096):
                self.units.receive(data, writer)
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


@contextmanager
def null_modem() -> Iterator[tuple[str, str]]:
    """Two ports joined by a cable; for a running event loop."""
    loop = asyncio.get_running_loop()
    pairs = [os.openpty(), os.openpty()]
    (one, one_port), (other, other_port) = pairs
    for port in (one_port, other_port):
        tty.setraw(port)
    loop.add_reader(one, lambda: os.write(other, os.read(one, 4096)))
    loop.add_reader(other, lambda: os.write(one, os.read(other, 4096)))
    try:
        yield os.ttyname(one_port), os.ttyname(other_port)
    finally:
        for far, near in pairs:
            loop.remove_reader(far)
            os.close(far)
            os.close(near)
