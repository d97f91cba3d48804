"""Bare loops that read one block of registers again and again: what an agent could cost at the least.

A process of its own: ``python -m benchmarks.loops {pymodbus,asyncio} PORT SECONDS`` prints as JSON how many
requests it made and what CPU time they took [s].
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import time

from pymodbus.client import AsyncModbusTcpClient

REGISTERS = 124
_UNIT = 1
_DECODE = struct.Struct(f">{REGISTERS // 2}f")
_DATA = 9
"""Where the data of an answer begin."""


async def pymodbus_loop(port: int, seconds: float) -> int:
    """Read with pymodbus, which makes integers of the registers."""
    client = AsyncModbusTcpClient("127.0.0.1", port=port)
    await client.connect()
    requests = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = await client.read_holding_registers(0, count=REGISTERS, device_id=_UNIT)
        assert len(answer.registers) == REGISTERS
        requests += 1
    client.close()
    return requests


class _Reader(asyncio.Protocol):
    """Asks anew as soon as an answer is whole and decoded."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._transport: asyncio.Transport | None = None
        self._got = b""
        self.requests = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._got += data
        if len(self._got) < _DATA + _DECODE.size:
            return
        _DECODE.unpack_from(self._got, _DATA)
        self._got = b""
        self.requests += 1
        if time.monotonic() < self._until:
            self._ask()
        else:
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the responder hung up"))

    def _ask(self) -> None:
        assert self._transport is not None
        self._transport.write(
            struct.pack(">HHHBBHH", self.requests & 0xFFFF, 0, 6, _UNIT, 3, 0, REGISTERS),
        )


async def asyncio_loop(port: int, seconds: float) -> int:
    """Read on a bare transport and decode with one precompiled struct."""
    loop = asyncio.get_running_loop()
    transport, reader = await loop.create_connection(lambda: _Reader(seconds), "127.0.0.1", port)
    try:
        await reader.done
    finally:
        transport.close()
    return reader.requests


LOOPS = {"pymodbus": pymodbus_loop, "asyncio": asyncio_loop}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=LOOPS)
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    before = time.process_time()
    made = asyncio.run(LOOPS[options.kind](options.port, options.seconds))
    print(json.dumps({"requests": made, "cpu_s": time.process_time() - before}))
