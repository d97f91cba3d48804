"""Modbus over TCP, a serial port, or serial frames over TCP: one connection, one request at a time, many units.

Invariants

- A request has one answer or none. TCP: pymodbus compares transaction and unit ids, so a late answer is thrown
  away and shifts nothing. Serial frames: an answer must have the unit, function and length asked for; a unit that
  did not answer is left alone until its answer can no longer come; and the next request waits for silence.
- On a serial line, units that wait for the answer of a dead one take the next request for it (libmodbus does). So
  a unit that has answered so far, and does not after another one did not, is asked once more in the same poll;
  one that stays silent is so now and then, lest the dead one keep it from coming back.
- A unit that does not answer costs the others at most one timeout per poll of it, and once it has failed a
  few times, one per probe interval.
- The connection is closed by us only when no unit at all has answered for a while, never because of one unit.
- A block that the device refuses (exceptions 2 and 3) is split until the refused fields stand alone; the rest
  goes on in the same poll. Refused fields are tried again now and then, and so is the unsplit plan.
- A reading's time is the middle of its own request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerType
from pymodbus.pdu import ModbusPDU

from edge_agent.clock import Clock
from edge_agent.config import Modbus, ModbusRtu, ModbusTcp, Polling
from edge_agent.drivers.base import Backoff, Turn, jittered
from edge_agent.drivers.decoding import Group, decoding, of_device
from edge_agent.drivers.rtu import SerialFramer
from edge_agent.points import ModbusBus, ModbusDevice
from edge_agent.polling.reporter import Reporter
from edge_agent.signals import Signals
from protocols import quality as qualities
from protocols.modbus.requests import Request, bisect, data_bytes
from protocols.quality import Quality
from protocols.reading import Value

_log = logging.getLogger(__name__)

_EXCEPTIONS = {
    1: Quality.BAD_CONFIGURATION,
    2: Quality.BAD_CONFIGURATION,
    3: Quality.BAD_CONFIGURATION,
    4: Quality.BAD_DEVICE_FAILURE,
    10: Quality.BAD_NO_COMMUNICATION,
    11: Quality.BAD_TIMEOUT,
}
"""Exception codes that say more than that the device refused."""
_REFUSED = {2, 3}
_BEHIND_GATEWAY = {10, 11}
"""Exceptions by which a gateway says that the unit itself did not answer."""
_FIRST_RECONNECT_S = 0.2
_SILENT_S = 30.0
"""A connection on which nothing has answered for so long is made anew."""
_SILENT_REQUESTS = 3
_REFUSED_RETRY_S = 300.0
_REPLAN_S = 3600.0
_ENDLESS = 10**9
_LATE_TIMEOUTS = 2.0
"""On a serial line, a unit that did not answer is left alone for so many time-outs: its answer may be late."""
DEAF_S = 0.6
"""So long a unit waits for the answer of another one, or for the rest of a frame; half a second with libmodbus [s]."""
_SECOND_TRIES = 4
"""One in so many unanswered polls of a unit that comes after a dead one has a second try: the first, the fifth …"""
SILENCE_OVER_TCP_S = 0.005
_LINE_BUFFER_BYTES = 4096


class _RawAnswer(ModbusPDU):
    """An answer whose data are left as they came; decode plans read them."""

    raw: bytes = b""

    def decode(self, data: bytes) -> None:
        """Keep byte count and data."""
        self.raw = data


class _Coils(_RawAnswer):
    function_code = 1


class _Discretes(_RawAnswer):
    function_code = 2


class _Holdings(_RawAnswer):
    function_code = 3


class _Inputs(_RawAnswer):
    function_code = 4


_ANSWERS: dict[str, type[_RawAnswer]] = {"coil": _Coils, "discrete": _Discretes, "holding": _Holdings, "input": _Inputs}


class _Read:
    """A request to a device, and how it fares."""

    __slots__ = ("_first", "decoding", "failures", "plain", "request", "retry_at")

    def __init__(self, request: Request, device: ModbusDevice, reporter: Reporter) -> None:
        self.request = request
        self.decoding = decoding(request, device.layout)
        self.failures = 0
        self.retry_at = 0.0
        self._first = device.first
        self.plain = reporter.is_plain(self.points)

    @property
    def points(self) -> Sequence[int]:
        """Points that it reads."""
        return of_device(self.decoding.positions, self._first)

    def points_of(self, group: Group) -> Sequence[int]:
        """Points of a group of its values."""
        return of_device(group.positions, self._first)

    def values(self, answer: ModbusPDU) -> Sequence[Value] | None:
        """Values of an answer, None in place of those that are none; None if the answer makes no sense."""
        return self.decoding.values(answer.raw) if isinstance(answer, _ANSWERS[self.request.table]) else None


class _Unit:
    """What is known of a unit id on the connection."""

    __slots__ = ("failures", "free_at", "late_until", "retry_at")

    def __init__(self) -> None:
        self.failures = 0
        self.retry_at = 0.0
        self.free_at = 0.0
        self.late_until = 0.0


class _Device:
    """A device with its current plan."""

    __slots__ = ("_reporter", "device", "pause_after_connect_s", "pause_s", "points", "reads", "replan_at", "unit")

    def __init__(self, device: ModbusDevice, unit: _Unit, reporter: Reporter) -> None:
        self.device = device
        self.unit = unit
        self.points = device.points
        self.pause_s = device.limits.pause_between_requests_ms / 1000
        self.pause_after_connect_s = device.limits.pause_after_connect_ms / 1000
        self._reporter = reporter
        self.reads: list[_Read] = []
        self.replan_at = math.inf
        self.plan()

    def plan(self) -> None:
        """Go back to the requests as planned."""
        self.reads = [_Read(request, self.device, self._reporter) for request in self.device.requests]
        self.replan_at = math.inf

    def split(self, read: _Read, now: float) -> tuple[_Read, _Read] | None:
        """Split a refused request; None if it is for one field only."""
        addresses = self.device.layout.addresses()
        places = {addresses[position].address for position in read.request.fields}
        if len(places) < 2:
            return None
        one, other = (_Read(request, self.device, self._reporter) for request in bisect(read.request, addresses))
        at = self.reads.index(read)
        self.reads[at : at + 1] = [one, other]
        self.replan_at = min(self.replan_at, now + jittered(_REPLAN_S))
        return one, other


class ModbusDriver:
    """All devices of one Modbus connection.

    Parameters
    ----------
    bus
        Connection and devices.
    polling
        How devices that do not answer are treated.
    clock
        Plant time.
    reporter
        Takes the readings.
    signals
        Counters.
    """

    def __init__(self, bus: ModbusBus, polling: Polling, clock: Clock, reporter: Reporter, signals: Signals) -> None:
        self.name = bus.settings.name
        self.turns = tuple(Turn(device.name, device.timing) for device in bus.devices)
        self._polling = polling
        self._clock = clock
        self._reporter = reporter
        self._signals = signals
        units: dict[int, _Unit] = {device.unit_id: _Unit() for device in bus.devices}
        self._devices = [_Device(device, units[device.unit_id], reporter) for device in bus.devices]
        self._settings = bus.settings
        self._client = client(bus.settings)
        framer = self._client.ctx.framer
        self._line = framer if isinstance(framer, SerialFramer) else None
        self._silence_s = bus.settings.silence_s if isinstance(bus.settings, ModbusRtu) else SILENCE_OVER_TCP_S
        self._ask = {
            "coil": self._client.read_coils,
            "discrete": self._client.read_discrete_inputs,
            "holding": self._client.read_holding_registers,
            "input": self._client.read_input_registers,
        }
        self._backoff = Backoff(_FIRST_RECONNECT_S, bus.settings.reconnect_max_s)
        self._connections = 0
        self._closed = False
        """The connection is closed because a device wants it so."""
        self._losses_told = 0
        self._answered_at = time.monotonic()
        self._unanswered = 0
        self._silent_unit: _Unit | None = None
        """The unit that was asked last, if it did not answer."""

    async def poll(self, turn: int) -> None:
        """Read all of a device; see `Driver.poll`."""
        device = self._devices[turn]
        await self._poll(device)
        if device.device.limits.close_after_poll and self._client.connected:
            self._client.close()
            self._closed = True

    async def _poll(self, device: _Device) -> None:
        unit = device.unit
        now = time.monotonic()
        if now < unit.late_until or (unit.failures >= self._polling.failures and now < unit.retry_at):
            return
        if not (self._client.connected or await self._connect()):
            self._fail(device.points, Quality.BAD_NO_COMMUNICATION)
            return
        if now >= device.replan_at:
            device.plan()
        # Blocks that answer go first: one that does not ends this poll.
        reads = deque(sorted(device.reads, key=lambda read: read.failures > 0))
        answered = False
        while reads:
            read = reads.popleft()
            if read.failures >= self._polling.failures and now < read.retry_at:
                continue
            if device.pause_s or device.pause_after_connect_s:
                await asyncio.sleep(max(0.0, unit.free_at - time.monotonic()))
            if self._line is not None:
                await self._silence(self._line)
            started_ns = time.monotonic_ns()
            try:
                answer = await self._request(read.request)
            except (ModbusException, OSError) as error:
                if await self._was_deaf(unit):
                    reads.appendleft(read)
                    continue
                self._unanswered_request(device, read, error, answered=answered)
                return
            ended_ns = time.monotonic_ns()
            self._answered_at = time.monotonic()
            self._unanswered = 0
            self._silent_unit = None
            self._backoff.succeeded()
            if device.pause_s:
                unit.free_at = self._answered_at + device.pause_s
            if answer.isError():
                if answer.exception_code in _BEHIND_GATEWAY:
                    self._silent(device, read, _EXCEPTIONS[answer.exception_code], answered=answered)
                    return
                halves = device.split(read, now) if answer.exception_code in _REFUSED else None
                if halves:
                    reads.extendleft(reversed(halves))
                else:
                    self._refused(read, answer.exception_code)
            else:
                self._accept(device, read, answer, started_ns, ended_ns)
            answered = True
            if unit.failures:
                self._recovered(device)

    async def close(self) -> None:
        """Close the connection."""
        self._client.close()

    async def _connect(self) -> bool:
        if not self._backoff.due:
            return False
        try:
            connected = await self._client.connect()
        except Exception as error:  # noqa: BLE001 (opening a serial port fails with errors of no common class)
            connected = False
            _log.debug("connection %s: %r", self.name, error)
        if not connected:
            if self._connections == self._losses_told:
                self._losses_told += 1
                _log.warning("connection %s: cannot connect to %s, trying again", self.name, self._settings.where)
            self._backoff.failed()
            return False
        # Until something has answered, the next loss counts as a failure.
        self._backoff.failed()
        if not self._closed:
            self._connections += 1
            if self._connections > 1:
                self._signals.bus_reconnects += 1
            _log.info("connection %s: connected", self.name)
        self._closed = False
        self._losses_told = self._connections
        self._answered_at = time.monotonic()
        for device in self._devices:
            if device.pause_after_connect_s:
                device.unit.free_at = max(device.unit.free_at, self._answered_at + device.pause_after_connect_s)
        return True

    async def _silence(self, line: SerialFramer) -> None:
        """Wait for the silence between frames; a line that is never silent is asked all the same."""
        give_up_at = time.monotonic() + self._settings.timeout_s
        while True:
            now = time.monotonic()
            wait_s = line.heard_at + self._silence_s - now
            if wait_s <= 0 or now >= give_up_at:
                return
            await asyncio.sleep(wait_s)

    async def _request(self, request: Request) -> ModbusPDU:
        self._signals.requests += 1
        started = time.monotonic()
        if isinstance(self._settings, ModbusRtu):
            # pymodbus counts from the start of sending; frames take their time on a slow line.
            wire_s = self._settings.wire_s(data_bytes(request.table, request.count))
            self._client.ctx.comm_params.timeout_connect = self._settings.timeout_s + wire_s
        try:
            return await self._ask[request.table](request.address, count=request.count, device_id=request.unit_id)
        finally:
            self._signals.bus_busy_s[self.name] += time.monotonic() - started

    def _accept(self, device: _Device, read: _Read, answer: ModbusPDU, started_ns: int, ended_ns: int) -> None:
        at_us = self._clock.plant_us((started_ns + ended_ns) // 2)
        values = read.values(answer)
        read.failures = 0
        if values is None:
            self._fail(read.points, Quality.BAD_NONSENSE)
            return
        quality = Quality.GOOD
        took_us = (ended_ns - started_ns) / 1000 * self._clock.timebase.speed
        if took_us > self._polling.max_time_uncertainty * device.device.timing.interval_us:
            quality = Quality.UNCERTAIN_TIME
            self._signals.uncertain_times += len(read.points)
        reporter = self._reporter
        if read.plain and None not in values and (not reporter.bad or reporter.bad.keys().isdisjoint(read.points)):
            for group in read.decoding.groups:
                found = values if group.pick is None else group.pick(values)
                reporter.batcher.extend(group.value_type, read.points_of(group), at_us, found, quality)
            return
        for point, value in zip(read.points, values, strict=True):
            if value is None:
                self._fail((point,), Quality.BAD_NONSENSE)
            else:
                reporter.good(point, value, quality, at_us)

    def _refused(self, read: _Read, code: int) -> None:
        """The device does not let us read this, or not now; it is asked again later."""
        quality = _EXCEPTIONS.get(code, Quality.BAD_EXCEPTION)
        if code in _REFUSED:
            read.failures = self._polling.failures
            read.retry_at = time.monotonic() + jittered(_REFUSED_RETRY_S)
        self._fail(read.points, quality)

    async def _was_deaf(self, unit: _Unit) -> bool:
        """Whether a unit may have taken its request for the answer of a dead one; waits until it hears again."""
        before, self._silent_unit = self._silent_unit, unit
        if self._line is None or not self._client.connected or before is None or before is unit:
            return False
        if unit.failures % _SECOND_TRIES:
            return False
        # By then an answer that is only late has come, too.
        await asyncio.sleep(max(DEAF_S, _LATE_TIMEOUTS * self._settings.timeout_s))
        return self._client.connected

    def _unanswered_request(self, device: _Device, read: _Read, error: Exception, *, answered: bool) -> None:
        if not self._client.connected:
            _log.warning("connection %s: lost: %s", self.name, error)
            self._fail(device.points, Quality.BAD_NO_COMMUNICATION)
            return
        self._unanswered += 1
        if self._line is not None:
            self._line.heard_at = time.monotonic()
            device.unit.late_until = self._line.heard_at + _LATE_TIMEOUTS * self._settings.timeout_s
        self._silent(device, read, Quality.BAD_TIMEOUT, answered=answered)
        if self._unanswered >= _SILENT_REQUESTS and time.monotonic() - self._answered_at > _SILENT_S:
            _log.warning("connection %s: nothing has answered for %g s, connecting anew", self.name, _SILENT_S)
            self._client.close()

    def _silent(self, device: _Device, read: _Read, quality: Quality, *, answered: bool) -> None:
        """The unit did not answer: put off the block, or the whole unit if nothing of it answered."""
        retry_at = time.monotonic() + jittered(self._polling.probe_interval_s)
        read.failures += 1
        read.retry_at = retry_at
        if answered:
            self._fail(read.points, quality)
            return
        device.unit.failures += 1
        device.unit.retry_at = retry_at
        if device.unit.failures == self._polling.failures:
            _log.warning("device %s does not answer; probing it from now on", device.device.name)
        self._fail(device.points, quality)

    def _recovered(self, device: _Device) -> None:
        if device.unit.failures >= self._polling.failures:
            _log.info("device %s answers again", device.device.name)
        device.unit.failures = 0

    def _fail(self, points: Sequence[int], quality: Quality) -> None:
        self._signals.failures[qualities.label(quality)] += 1
        self._reporter.turn_bad(points, quality, self._clock.now_us())


def client(settings: Modbus) -> AsyncModbusTcpClient | AsyncModbusSerialClient:
    """A client that never retries or reconnects by itself; what it logs is counted here instead."""
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    made: AsyncModbusTcpClient | AsyncModbusSerialClient
    if isinstance(settings, ModbusRtu):
        made = AsyncModbusSerialClient(
            settings.port,
            baudrate=settings.baudrate,
            bytesize=settings.bytesize,
            parity=settings.parity,
            stopbits=settings.stopbits,
            name=settings.name,
            timeout=settings.timeout_s,
            retries=0,
            reconnect_delay=0,
        )
    else:
        made = AsyncModbusTcpClient(
            settings.host,
            port=settings.port,
            framer=FramerType.SOCKET if isinstance(settings, ModbusTcp) else FramerType.RTU,
            name=settings.name,
            timeout=settings.timeout_s,
            retries=0,
            reconnect_delay=0,
        )
    if not isinstance(settings, ModbusTcp):
        made.ctx.framer = SerialFramer(made.ctx.framer.decoder)
        made.ctx.max_buffer_size = _LINE_BUFFER_BYTES
    # Its own count of unanswered requests spans all units and would close the connection.
    made.set_max_no_responses(_ENDLESS)
    for answer in _ANSWERS.values():
        made.register(answer)
    return made
