"""A Modbus TCP responder on raw sockets that can answer late, wrongly, in pieces or not at all."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Asked:
    """A read request as it came over the wire."""

    transaction: int
    unit: int
    function: int
    address: int
    count: int

    def answer(self, registers: Sequence[int], *, transaction: int | None = None, unit: int | None = None) -> bytes:
        """A frame with registers."""
        return self.frame(
            struct.pack(f">BB{len(registers)}H", self.function, 2 * len(registers), *registers),
            transaction=transaction,
            unit=unit,
        )

    def refusal(self, code: int) -> bytes:
        """A frame with an exception."""
        return self.frame(bytes([self.function | 0x80, code]))

    def frame(self, pdu: bytes, *, transaction: int | None = None, unit: int | None = None) -> bytes:
        """A frame around any bytes."""
        tid = self.transaction if transaction is None else transaction
        return struct.pack(">HHHB", tid, 0, len(pdu) + 1, self.unit if unit is None else unit) + pdu

    def counting(self) -> bytes:
        """Registers that hold their own address."""
        return self.answer([(self.address + n) & 0xFFFF for n in range(self.count)])


@dataclass(frozen=True)
class After:
    """Bytes to send after a delay [s]; None closes the connection."""

    delay_s: float
    data: bytes | None


Reply = bytes | After | None | Sequence[bytes | After]
"""Bytes go out at once; None: silence."""


class Responder:
    """Listens on a free loopback port while its block lasts; `handler` decides about each request."""

    def __init__(self, handler: Callable[[Asked], Reply]) -> None:
        self.handler = handler
        self.asked: list[Asked] = []
        self.connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def listen(self) -> None:
        """Listen, on the same port again after a stop."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hang_up(self) -> None:
        """Close the connections but go on listening."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                header = await reader.readexactly(7)
                transaction, _, length, unit = struct.unpack(">HHHB", header)
                function, address, count = struct.unpack(">BHH", await reader.readexactly(length - 1))
                asked = Asked(transaction, unit, function, address, count)
                self.asked.append(asked)
                reply = self.handler(asked)
                for part in reply if isinstance(reply, list | tuple) else (reply,):
                    self._send(writer, part)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def _send(self, writer: asyncio.StreamWriter, part: bytes | After | None) -> None:
        if isinstance(part, After):
            task = asyncio.create_task(self._later(writer, part))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif part is not None:
            writer.write(part)

    @staticmethod
    async def _later(writer: asyncio.StreamWriter, part: After) -> None:
        await asyncio.sleep(part.delay_s)
        if part.data is None:
            writer.transport.abort()
        elif not writer.is_closing():
            writer.write(part.data)
