"""A Modbus TCP listener with devices behind it.

Invariants

- Requests are answered in the order in which they come, each with its own transaction id and with values of
  the moment at which it is handled.
- Whatever bytes come, the listener and its other connections go on. A frame that is not Modbus ends its
  connection, since nothing says where the next frame would begin.
- A client that does not read its answers is not read from.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping

from device_sims.errors import ServeError
from device_sims.modbus.device import NO_ANSWER_FROM_TARGET, ModbusDevice, exception
from device_sims.plant.plant import Moment
from device_sims.signals import Signals

_HEADER = struct.Struct(">HHHB")
_LEAST, _MOST = 2, 254
"""Allowed length in the header: unit id and at least a function code, up to a full frame."""


class ModbusGateway:
    """A listener.

    Parameters
    ----------
    name, host, port
        Where it listens; port 0: any free one.
    devices
        By unit id.
    now
        The plant at this moment.
    unknown_unit_answers
        Whether a request for another unit id gets exception 0x0B rather than silence.
    max_connections
        Further ones are closed at once.
    signals
        Where it counts.
    """

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        devices: Mapping[int, ModbusDevice],
        now: Callable[[], Moment],
        *,
        unknown_unit_answers: bool,
        max_connections: int,
        signals: Signals,
    ) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.devices = devices
        self.now = now
        self.unknown_unit_answers = unknown_unit_answers
        self.max_connections = max_connections
        self.signals = signals
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; afterwards `port` is the real one.

        Raises
        ------
        ServeError
            If the address can't be bound.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: Connection(self), self.host, self.port)
        except OSError as error:
            raise ServeError(f"gateway {self.name!r} can't listen on {self.host}:{self.port}: {error}") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and close all connections."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self.connections):
            connection.close()
        await self._server.wait_closed()
        self._server = None


class Connection(asyncio.Protocol):
    """One client of a gateway."""

    def __init__(self, gateway: ModbusGateway) -> None:
        self._gateway = gateway
        self._transport: asyncio.Transport | None = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or close it if there are enough."""
        assert isinstance(transport, asyncio.Transport)
        gateway = self._gateway
        if len(gateway.connections) >= gateway.max_connections:
            gateway.signals.refused_connections += 1
            transport.abort()
            return
        gateway.signals.connections += 1
        gateway.connections.add(self)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._gateway.connections.discard(self)
        self._transport = None

    def close(self) -> None:
        """Close it without waiting for the client."""
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        """Answers pile up: read no further requests."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Answers are being read again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Answer all complete requests."""
        transport, gateway = self._transport, self._gateway
        if transport is None:
            return
        data = self._rest + data
        answers: list[bytes] = []
        here, end = 0, len(data)
        while end - here >= _HEADER.size:
            transaction, protocol, length, unit_id = _HEADER.unpack_from(data, here)
            if protocol != 0 or not _LEAST <= length <= _MOST:
                gateway.signals.malformed += 1
                transport.writelines(answers)
                transport.close()
                return
            after = here + 6 + length
            if after > end:
                break
            answer = self._answer(unit_id, data[here + 7 : after])
            if answer is not None:
                answers.append(_HEADER.pack(transaction, 0, len(answer) + 1, unit_id) + answer)
            here = after
        self._rest = data[here:]
        if answers:
            transport.write(b"".join(answers))

    def _answer(self, unit_id: int, request: bytes) -> bytes | None:
        gateway = self._gateway
        gateway.signals.requests += 1
        device = gateway.devices.get(unit_id)
        if device is not None:
            answer = device.answer(request, gateway.now)
        elif gateway.unknown_unit_answers:
            gateway.signals.exceptions += 1
            answer = exception(request[0], NO_ANSWER_FROM_TARGET)
        else:
            answer = None
        if answer is None:
            gateway.signals.unanswered += 1
        return answer
