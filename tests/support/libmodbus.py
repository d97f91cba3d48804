"""Modbus servers on libmodbus, which shares no code with the agent, and the serial line that they hang on."""

from __future__ import annotations

import asyncio
import os
import struct
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.processes import Child
from tests.support import edge
from tests.support.waiting import wait_until

SOURCE = Path(__file__).with_name("libmodbus_server.c")
LIBRARIES = ("modbus",)
_CHARACTER_BITS = 11
"""Start, eight of data, parity, stop."""


@dataclass(frozen=True)
class Held:
    """A value that a server says it holds."""

    table: str
    address: int
    type: str
    word_order: str
    byte_order: str
    value: float | int | bool

    @property
    def name(self) -> str:
        """Name of its tag."""
        return f"{self.table}{self.address}"

    def tag(self) -> str:
        """Its tag in agent.toml."""
        if self.type == "bool":
            return edge.bit(self.name, self.address, self.table)
        order = f'word_order = "{self.word_order}"\nbyte_order = "{self.byte_order}"'
        return edge.register(self.name, self.address, self.type, self.table, order)


def _held(line: str) -> Held:
    _, table, address, type_, word_order, byte_order, text = line.split()
    value: float | int | bool = bool(int(text)) if type_ == "bool" else float(text) if "float" in type_ else int(text)
    if type_ == "float32":
        # Printed with the fewest digits that tell one float32 from the next.
        (value,) = struct.unpack(">f", struct.pack(">f", value))
    return Held(table, int(address), type_, word_order, byte_order, value)


class Server:
    """A running server; `child` may be killed and started again."""

    def __init__(self, child: Child) -> None:
        self.child = child

    @property
    def lines(self) -> list[str]:
        """What it has printed."""
        return self.child.log.read_text().splitlines()

    @property
    def connections(self) -> int:
        """How many TCP connections it has accepted."""
        return self.lines.count("connected")

    def held(self, unit: int) -> list[Held]:
        """What a unit holds, in the order of the tables."""
        lines = self.lines
        first = lines.index(f"unit {unit}") + 1
        count = next(n for n, line in enumerate(lines[first:]) if not line.startswith("holds "))
        return [_held(line) for line in lines[first : first + count]]

    def start(self) -> None:
        """Start it, and wait until it serves."""
        ready = self.lines.count("ready") if self.child.log.exists() else 0
        self.child.start()

        def serves() -> bool:
            self.child.require()
            return self.lines.count("ready") > ready

        wait_until(serves, f"{self.child.name} serves", every_s=0.01)


@contextmanager
def server(command: Sequence[str], log: Path, *arguments: object) -> Iterator[Server]:
    """A server with arguments of its own; see the program."""
    child = Child(log.stem, [*command, *map(str, arguments)], log)
    found = Server(child)
    found.start()
    try:
        yield found
    finally:
        child.kill()


class SharedLine:
    """A two-wire serial line: what one party sends all others hear, when it has passed the line at its speed.

    Parameters
    ----------
    baudrate
        Speed [Bd].

    Attributes
    ----------
    collisions
        How often a party began to send while another one was sending.
    """

    def __init__(self, baudrate: int) -> None:
        self.collisions = 0
        self._character_s = _CHARACTER_BITS / baudrate
        self._free_at = 0.0
        self._speaker = -1
        self._ports: list[tuple[int, int]] = []
        self._clients: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
            serving = [task for task in self._clients.values() if task is not None]
            for writer in self._clients:
                writer.transport.abort()
            await self._server.wait_closed()
            await asyncio.gather(*serving)
        ports, self._ports = self._ports, []
        for far, near in ports:
            asyncio.get_running_loop().remove_reader(far)
            os.close(far)
            os.close(near)

    def port(self) -> str:
        """A serial port on the line."""
        far, near = os.openpty()
        tty.setraw(near)
        self._ports.append((far, near))
        asyncio.get_running_loop().add_reader(far, lambda: self._heard(far, os.read(far, 4096)))
        return os.ttyname(near)

    async def device_server(self) -> int:
        """A serial device server on the line, which passes bytes on; returns its TCP port on loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients[writer] = asyncio.current_task()
        try:
            while data := await reader.read(4096):
                self._heard(0, data)
        except ConnectionError:
            pass
        finally:
            del self._clients[writer]
            writer.transport.abort()

    def _heard(self, party: int, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now < self._free_at and party != self._speaker:
            self.collisions += 1
        self._speaker = party
        self._free_at = max(now, self._free_at) + len(data) * self._character_s
        loop.call_at(self._free_at, self._pass_on, party, data)

    def _pass_on(self, party: int, data: bytes) -> None:
        for far, _ in self._ports:
            if far != party:
                os.write(far, data)
        if party != 0:
            for writer in self._clients:
                writer.write(data)
