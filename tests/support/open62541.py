"""An OPC-UA server on open62541, which shares no code with the agent."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import edge

SOURCE = Path(__file__).with_name("open62541_server.c")
LIBRARIES = ("open62541",)
PATIENCE_S = 60.0
_ESTABLISHED = "01"
_TYPES: dict[str, Callable[[str], object]] = {
    "int": int,
    "float": float,
    "text": str,
    "bool": lambda text: bool(int(text)),
}


class Server:
    """A server that takes orders; it may be stopped and started again.

    Parameters
    ----------
    command
        The program, without arguments.
    port
        Where it listens on loopback.
    log
        What it prints.
    options
        See the program.
    """

    def __init__(self, command: Sequence[str], port: int, log: Path, *options: object) -> None:
        self.endpoint = f"opc.tcp://127.0.0.1:{port}"
        self._port = port
        self._command = [*command, "serve", str(port), *map(str, options)]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def lines(self) -> list[str]:
        """What it has printed."""
        return self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []

    @property
    def sessions(self) -> list[str]:
        """How the server answered to each client that wanted a session."""
        return [line.removeprefix("session ") for line in self.lines if line.startswith("session ")]

    @property
    def connections(self) -> int:
        """How many connections clients hold to it, as the kernel says."""
        port = f":{self._port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[2].endswith(port) and row[3] == _ESTABLISHED for row in rows)

    def held(self) -> dict[str, tuple[str, object]]:
        """Type and value of the variables that it says it holds."""
        found = [line.split(" ", 3)[1:] for line in self.lines if line.startswith("holds ")]
        return {name: (type_, _TYPES[type_](text)) for name, type_, text in found}

    def tags(self) -> list[str]:
        """A tag for each of them."""
        return [edge.node(name, f"ns=2;s={name}", type_) for name, (type_, _) in self.held().items()]

    async def start(self) -> None:
        """Start it, and wait until it serves."""
        ready = self._count("ready")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        await self._until("ready", ready)

    def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.kill()
            process.wait()
            process.stdin.close()

    def stall(self) -> None:
        """Let it do nothing, not even answer, until told to go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a stall."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def order(self, *words: object) -> None:
        """Have it do something, and wait until it is done."""
        assert self._process is not None
        assert self._process.stdin is not None
        done = self._count("done ")
        self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self._process.stdin.flush()
        await self._until("done ", done)
        answer = [line for line in self.lines if line.startswith("done ")][-1]
        assert answer == f"done {words[0]} Good", f"order {words}: {answer}"

    def _count(self, start: str) -> int:
        return sum(line.startswith(start) for line in self.lines)

    async def _until(self, start: str, more_than: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self._count(start) <= more_than:
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"the server did not print {start!r}; its log ends: {self.lines[-10:]}")
            await asyncio.sleep(0.01)
