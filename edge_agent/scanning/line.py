"""One Modbus connection on which single requests are tried, with the client and the framing of the driver.

Invariants

- One request at a time, reads only, with a pause after each, and never more than the scan may make.
- An answer counts for the request it belongs to, as in the driver. A late one is thrown away; its unit is
  remembered in `strays`, and from then on answers are waited for longer.
- On a serial line a unit that did not answer is not asked again before its answer can no longer come.
- On a serial line, units that wait for the answer of a dead one take the next request for it (libmodbus does). So
  after a request without answer the next one waits until the line was silent for so long that all of them listen
  again; only a hasty one does not.
- A connection that is lost is made again; after some attempts the scan ends with `ScanError`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from edge_agent.config import Modbus, ModbusRtu, ModbusTcp
from edge_agent.drivers import modbus
from edge_agent.drivers.base import Backoff
from edge_agent.drivers.modbus import DEAF_S, SILENCE_OVER_TCP_S
from edge_agent.scanning.errors import OutOfRequestsError, ScanError
from edge_agent.scanning.framing import Identification, ScanFramer
from protocols.modbus.limits import TableName
from protocols.modbus.requests import data_bytes

ILLEGAL_FUNCTION = 1
_GATEWAY = {10, 11}
"""Exceptions by which a gateway says that the unit itself did not answer."""
_BUSY = {5, 6}
_BUSY_TRIES = 3
_BUSY_S = 0.5
_RECONNECT_S = 0.2, 0.4
_CONNECT_S = 3.0
"""Least time for a connection; an answer may be waited for less [s]."""
_CONNECT_TRIES = 5
_PATIENCE = 10.0
"""Answers are waited for at most so many times longer than at first."""
_LATE_MARGIN = 1.5
_LATE_TIMEOUTS = 2.0
_HEADER_BYTES = 7
_LONGEST_BYTES = 250


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request.

    Attributes
    ----------
    data
        Registers or coils as they came; None if there are none.
    exception
        Modbus exception code, 0 if there was none.
    heard
        Whether the unit answered at all, whatever it said.
    """

    data: bytes | None = None
    exception: int = 0
    heard: bool = True

    @property
    def text(self) -> str:
        """For people."""
        if self.exception:
            return f"exception {self.exception} ({EXCEPTIONS.get(self.exception, 'unknown')})"
        if self.data is not None:
            return "readable"
        return "an answer of another length" if self.heard else "no answer"


SILENCE = Answer(heard=False)
EXCEPTIONS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledge",
    6: "busy",
    7: "negative acknowledge",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway: no answer",
}


class Line:
    """A connection without devices of its own; to be made within an event loop.

    Parameters
    ----------
    settings
        The connection; `timeout_s` is how long an answer is waited for at first.
    pause_s
        Time from an answer to the next request [s].
    max_requests
        Most requests of the whole scan.

    Attributes
    ----------
    asked
        Requests made.
    pause_s
        May be changed.
    timeout_s
        How long an answer is waited for now [s].
    strays
        Units of which something came that fits no request in flight, and how late [s].
    """

    def __init__(self, settings: Modbus, pause_s: float, max_requests: int) -> None:
        self.asked = 0
        self.pause_s = pause_s
        self.timeout_s = settings.timeout_s
        self.strays: dict[int, float] = {}
        self._settings = settings
        self._max_requests = max_requests
        self._backoff = Backoff(*_RECONNECT_S)
        self._was_open = False
        self._asked_at: dict[int, float] = {}
        self._late_until: dict[int, float] = {}
        self._transaction = 0
        self._in_flight = -1
        self._free_at = 0.0
        self._passed_at = 0.0
        """When the last request, and a short answer, must have passed a serial line."""
        self._all_listen = True
        """Whether no unit of a serial line can be waiting for the answer of another one."""
        self._client = modbus.client(settings)
        self._client.register(Identification)
        self._ask = {
            "coil": self._client.read_coils,
            "discrete": self._client.read_discrete_inputs,
            "holding": self._client.read_holding_registers,
            "input": self._client.read_input_registers,
        }
        self._framer: ScanFramer | None = None
        self._silence_s = 0.0
        if isinstance(settings, ModbusTcp):
            self._client.ctx.trace_packet = self._overhear
        else:
            self._framer = self._client.ctx.framer = ScanFramer(self._client.ctx.framer.decoder, self._stray)
            self._silence_s = settings.silence_s if isinstance(settings, ModbusRtu) else SILENCE_OVER_TCP_S

    @property
    def left(self) -> int:
        """Requests that may still be made."""
        return self._max_requests - self.asked

    @property
    def is_shared(self) -> bool:
        """Whether units hear the requests to each other, as on a serial line."""
        return self._framer is not None

    @property
    def unanswered_s(self) -> float:
        """About how long a request takes that nobody answers, and that is not hasty [s]."""
        answer_s = self.timeout_s + self._wire_s(0) + self.pause_s
        return max(answer_s, self._settings.cost().round_trip_s + DEAF_S) if self.is_shared else answer_s

    async def open(self) -> None:
        """Connect.

        Raises
        ------
        ScanError
            If that fails.
        """
        problem = ""
        for _ in range(_CONNECT_TRIES if self._was_open else 1):
            await asyncio.sleep(self._backoff.wait_s)
            self._client.ctx.comm_params.timeout_connect = max(self.timeout_s, _CONNECT_S)
            try:
                connected = await self._client.connect()
            except Exception as error:  # noqa: BLE001 (opening a serial port fails with errors of no common class)
                connected, problem = False, f": {error}"
            # Until something has answered, the next loss counts as a failure.
            self._backoff.failed()
            if connected:
                self._was_open = True
                return
        raise ScanError(f"cannot connect to {self._settings.where}{problem}")

    async def close(self) -> None:
        """Close the connection."""
        self._client.close()

    async def read_surely(self, unit_id: int, table: TableName, address: int, count: int) -> Answer:
        """As `read`, and once more if no answer comes: on a noisy line one may be lost.

        Raises
        ------
        OutOfRequestsError, ScanError
            As for `read`.
        """
        answer = await self.read(unit_id, table, address, count)
        return answer if answer.heard else await self.read(unit_id, table, address, count)

    async def read(self, unit_id: int, table: TableName, address: int, count: int, *, hasty: bool = False) -> Answer:
        """Ask for entries of a table; a unit that is busy is asked again.

        A hasty request does not wait until all units of the line listen again.

        Raises
        ------
        OutOfRequestsError, ScanError
            If no more requests may be made, or there is no connection any more.
        """
        size = data_bytes(table, count)
        for _ in range(_BUSY_TRIES):
            answer = await self._exchange(
                unit_id, size, lambda: self._ask[table](address, count=count, device_id=unit_id), hasty=hasty
            )
            if answer is None:
                return SILENCE
            if answer.isError():
                if answer.exception_code in _BUSY:
                    await asyncio.sleep(_BUSY_S)
                    continue
                return Answer(exception=answer.exception_code, heard=answer.exception_code not in _GATEWAY)
            raw = getattr(answer, "raw", b"")
            fits = len(raw) == size + 1 and raw[0] == size and answer.function_code == _FUNCTIONS[table]
            return Answer(data=raw[1:] if fits else None)
        return Answer(exception=answer.exception_code if answer is not None else 0)

    async def identification(self, unit_id: int, category: int, first: int) -> bytes | None:
        """Ask for a device's identification (function 43, type 14); None if the unit gives none.

        Raises
        ------
        OutOfRequestsError, ScanError
            As for `read`.
        """
        answer = await self._exchange(
            unit_id,
            _LONGEST_BYTES,
            lambda: self._client.read_device_information(read_code=category, object_id=first, device_id=unit_id),
        )
        if answer is None:
            # For so long libmodbus throws away what comes after a function that it does not know, over TCP too.
            self._free_at = max(self._free_at, self._asked_at[unit_id] + DEAF_S)
        return answer.raw if isinstance(answer, Identification) else None

    async def settle(self) -> None:
        """Wait until answers that are late can no longer come."""
        await asyncio.sleep(min(_PATIENCE * self._settings.timeout_s, 2 * self.timeout_s))

    async def _exchange(
        self, unit_id: int, most_bytes: int, ask: Callable[[], Awaitable[ModbusPDU]], *, hasty: bool = False
    ) -> ModbusPDU | None:
        """One request and its answer, which has so many bytes of data at most; None if none came."""
        if self.left <= 0:
            raise OutOfRequestsError(f"{self.asked} requests were made; allowed: --max-requests {self._max_requests}")
        if not self._client.connected:
            await self.open()
        await asyncio.sleep(max(0.0, max(self._free_at, self._late_until.get(unit_id, 0.0)) - time.monotonic()))
        if self._framer is not None:
            await self._silence(self._framer, hasty=hasty)
        # pymodbus counts from the start of sending; frames take their time on a slow line.
        self._client.ctx.comm_params.timeout_connect = self.timeout_s + self._wire_s(most_bytes)
        self.asked += 1
        self._in_flight = unit_id
        self._asked_at[unit_id] = time.monotonic()
        self._passed_at = time.monotonic() + self._settings.cost().round_trip_s
        try:
            answer = await ask()
        except (ModbusException, OSError):
            self._all_listen = False
            if self.is_shared and self._client.connected:
                self._late_until[unit_id] = time.monotonic() + _LATE_TIMEOUTS * self.timeout_s
            return None
        finally:
            self._in_flight = -1
            self._free_at = time.monotonic() + max(self.pause_s, self._silence_s)
        self._backoff.succeeded()
        return answer

    async def _silence(self, framer: ScanFramer, *, hasty: bool) -> None:
        """Wait until the line was silent for long enough; one that is never silent is asked all the same."""
        patient = not (hasty or self._all_listen)
        silence_s = DEAF_S if patient else self._silence_s
        give_up_at = time.monotonic() + silence_s + self.timeout_s
        while (now := time.monotonic()) < give_up_at:
            silent_since = max(framer.heard_at, self._passed_at) if patient else framer.heard_at
            wait_s = silent_since + silence_s - now
            if wait_s <= 0:
                self._all_listen |= patient
                return
            await asyncio.sleep(wait_s)

    def _wire_s(self, most_bytes: int) -> float:
        """Time of a request and its answer on a serial port [s]."""
        return self._settings.wire_s(most_bytes) if isinstance(self._settings, ModbusRtu) else 0.0

    def _overhear(self, sending: bool, data: bytes) -> bytes:
        """See what passes on a TCP connection: an answer to an earlier transaction is late."""
        if sending:
            self._transaction = int.from_bytes(data[:2], "big")
            return data
        frame = data
        while len(frame) > _HEADER_BYTES:
            transaction, unit_id = int.from_bytes(frame[:2], "big"), frame[6]
            if transaction not in (self._transaction, 0):
                self._stray(unit_id)
            frame = frame[6 + max(2, int.from_bytes(frame[4:6], "big")) :]
        return data

    def _stray(self, unit_id: int) -> None:
        """Something of a unit came that fits no request in flight."""
        asked_at = self._asked_at.get(unit_id)
        if asked_at is None:
            return
        late_s = time.monotonic() - asked_at
        self.strays[unit_id] = max(late_s, self.strays.get(unit_id, 0.0))
        wait_s = min(_LATE_MARGIN * late_s, _PATIENCE * self._settings.timeout_s)
        if unit_id != self._in_flight:
            self.timeout_s = max(self.timeout_s, wait_s)


_FUNCTIONS: dict[TableName, int] = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
