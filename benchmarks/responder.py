"""A Modbus TCP responder that answers every read of registers with the same floats, as fast as asyncio can.

A process of its own: ``python -m benchmarks.responder PORTS`` listens on so many free ports, prints them as
JSON, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys

_VALUE = 12.5
_REQUEST_BYTES = 12


class Responder(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._answers: dict[bytes, bytes] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        data = self._rest + data
        whole = len(data) // _REQUEST_BYTES * _REQUEST_BYTES
        self._rest = data[whole:]
        self._transport.write(
            b"".join(
                data[start : start + 4] + self._answer(data[start + 6 : start + _REQUEST_BYTES])
                for start in range(0, whole, _REQUEST_BYTES)
            )
        )

    def _answer(self, request: bytes) -> bytes:
        """Length, unit, function, byte count, data."""
        answer = self._answers.get(request)
        if answer is None:
            unit, function, _, count = struct.unpack(">BBHH", request)
            data = struct.pack(">f", _VALUE) * (count // 2) + bytes(count % 2 * 2)
            answer = struct.pack(">HBBB", 3 + len(data), unit, function, len(data)) + data
            self._answers[request] = answer
        return answer


async def _serve(ports: int) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Responder, "127.0.0.1", 0) for _ in range(ports)]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("ports", type=int)
    asyncio.run(_serve(parser.parse_args().ports))
