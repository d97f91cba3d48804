"""OPC-UA: one session, nodes polled in blocks with the source's timestamps.

Invariants

- A reading's time is the source's timestamp, else the server's, else the middle of the read.
- The same value with the same timestamp is not sent again until the heartbeat, then with the time of the read.
- A node that the server does not know, or reports bad, is bad alone; the others of its block go on.
- A new session is made, after a jittered pause, whenever the old one fails; there is never a second one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError

from edge_agent.clock import Clock
from edge_agent.drivers.base import Backoff, Turn
from edge_agent.points import NodeTag, OpcUaBus, Timing
from edge_agent.polling.reporter import Reporter
from edge_agent.signals import Signals
from protocols import quality as qualities
from protocols.quality import Quality
from protocols.reading import INT_MAX, INT_MIN, Value, ValueType
from protocols.timebase import US

_log = logging.getLogger(__name__)

_FIRST_RECONNECT_S = 0.5
_WATCHDOG_S = 10.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEVERITY = 0xC0000000
_UNCERTAIN = 0x40000000
_CODE = 0xFFFF0000
_OVERFLOW = 0x00000480
"""Info type "data value" with the overflow bit."""

_CONNECTION_ERRORS = (OSError, asyncio.TimeoutError, UaError)
_TOO_MUCH = (
    StatusCodes.BadTooManyOperations,
    StatusCodes.BadEncodingLimitsExceeded,
    StatusCodes.BadResponseTooLarge,
    StatusCodes.BadRequestTooLarge,
)

_STATUS: dict[int, Quality] = {
    StatusCodes.BadNodeIdUnknown: Quality.BAD_CONFIGURATION,
    StatusCodes.BadNodeIdInvalid: Quality.BAD_CONFIGURATION,
    StatusCodes.BadAttributeIdInvalid: Quality.BAD_CONFIGURATION,
    StatusCodes.BadConfigurationError: Quality.BAD_CONFIGURATION,
    StatusCodes.BadNoCommunication: Quality.BAD_NO_COMMUNICATION,
    StatusCodes.BadNotConnected: Quality.BAD_NO_COMMUNICATION,
    StatusCodes.BadCommunicationError: Quality.BAD_NO_COMMUNICATION,
    StatusCodes.BadWaitingForInitialData: Quality.BAD_NO_COMMUNICATION,
    StatusCodes.BadTimeout: Quality.BAD_TIMEOUT,
    StatusCodes.BadDeviceFailure: Quality.BAD_DEVICE_FAILURE,
    StatusCodes.BadSensorFailure: Quality.BAD_DEVICE_FAILURE,
    StatusCodes.UncertainLastUsableValue: Quality.UNCERTAIN_SUBSTITUTED,
    StatusCodes.UncertainSubstituteValue: Quality.UNCERTAIN_SUBSTITUTED,
    StatusCodes.UncertainInitialValue: Quality.UNCERTAIN_SUBSTITUTED,
    StatusCodes.UncertainNoCommunicationLastUsableValue: Quality.UNCERTAIN_SUBSTITUTED,
    StatusCodes.UncertainEngineeringUnitsExceeded: Quality.UNCERTAIN_OUT_OF_RANGE,
}
_TYPES: dict[ValueType, tuple[type, ...]] = {
    "float": (float, int),
    "int": (int,),
    "bool": (bool,),
    "text": (str,),
}


def quality_of(status: int) -> Quality:
    """Quality for an OPC-UA status code."""
    severity = status & _SEVERITY
    if severity == 0:
        return Quality.UNCERTAIN_OVERFLOW if status & _OVERFLOW == _OVERFLOW else Quality.GOOD
    otherwise = Quality.UNCERTAIN if severity == _UNCERTAIN else Quality.BAD_EXCEPTION
    return _STATUS.get(status & _CODE, otherwise)


def value_of(raw: object, tag: NodeTag) -> Value:
    """Value of a point for what the server sent; None if it does not fit the point."""
    if not isinstance(raw, _TYPES[tag.value_type]) or (isinstance(raw, bool) and tag.value_type != "bool"):
        return None
    if isinstance(raw, bool | str):
        return raw if "\0" not in str(raw) else None
    if tag.value_type == "int":
        return raw if isinstance(raw, int) and INT_MIN <= raw <= INT_MAX else None
    if not isinstance(raw, int | float):
        return None
    value = float(raw) * tag.scale + tag.offset
    return value if math.isfinite(value) else None


def stamp_us(found: ua.DataValue) -> int | None:
    """Time that a value carries [µs UTC]: the source's, else the server's."""
    stamp: datetime | None = found.SourceTimestamp or found.ServerTimestamp
    if stamp is None:
        return None
    since: timedelta = (stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp) - _EPOCH
    return since // timedelta(microseconds=1)


class OpcUaDriver:
    """All nodes of one OPC-UA connection; groups of nodes with the same times are read together.

    Parameters
    ----------
    bus
        Connection and groups of nodes.
    clock
        Plant time.
    reporter
        Takes the readings.
    signals
        Counters.
    """

    def __init__(self, bus: OpcUaBus, clock: Clock, reporter: Reporter, signals: Signals) -> None:
        self.name = bus.settings.name
        self._settings = bus.settings
        self._timebase = clock.timebase
        self._reporter = reporter
        self._signals = signals
        tags: dict[Timing, list[NodeTag]] = {}
        for device in bus.devices:
            tags.setdefault(device.timing, []).extend(device.tags)
        self.turns = tuple(Turn(f"{self.name}/{timing.interval_us / US:g}s", timing) for timing in tags)
        self._tags = [tuple(group) for group in tags.values()]
        self._nodes = [[_read_id(tag) for tag in group] for group in self._tags]
        self._per_read = bus.settings.nodes_per_read
        self._client: Client | None = None
        self._backoff = Backoff(_FIRST_RECONNECT_S, bus.settings.reconnect_max_s)
        self._connections = 0
        self._failing = False
        # Its own log tells each failed attempt at length; what matters is counted and logged here.
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)

    async def poll(self, turn: int) -> None:
        """Read a group of nodes; see `Driver.poll`."""
        tags, nodes = self._tags[turn], self._nodes[turn]
        if self._client is None and not await self._connect():
            self._fail(tags, Quality.BAD_NO_COMMUNICATION)
            return
        start = 0
        while start < len(tags):
            size = min(self._per_read, len(tags) - start)
            block = tags[start : start + size]
            started_ns = time.time_ns()
            try:
                found = await self._read(nodes[start : start + size])
            except _CONNECTION_ERRORS as error:
                if getattr(error, "code", None) in _TOO_MUCH and size > 1:
                    self._per_read = size // 2
                    _log.warning("connection %s: reading %d nodes at once from now on", self.name, self._per_read)
                    continue
                await self._lost(error)
                self._fail(tags[start:], Quality.BAD_NO_COMMUNICATION)
                return
            at_us = self._timebase.plant_us((started_ns + time.time_ns()) // 2000)
            if len(found) == size:
                self._accept(block, found, at_us)
            else:
                self._fail(block, Quality.BAD_NONSENSE)
            start += size
        self._backoff.succeeded()
        self._failing = False

    async def close(self) -> None:
        """End the session."""
        client, self._client = self._client, None
        if client is not None:
            await self._drop(client)

    async def _connect(self) -> bool:
        if not self._backoff.due:
            return False
        client = Client(self._settings.endpoint, timeout=self._settings.timeout_s, watchdog_intervall=_WATCHDOG_S)
        client.name = client.description = "metercarbon edge-agent"
        try:
            await asyncio.wait_for(client.connect(), 3 * self._settings.timeout_s)
        except _CONNECTION_ERRORS as error:
            client.disconnect_socket()
            self._backoff.failed()
            if not self._failing:
                _log.warning("connection %s: cannot connect, trying again: %r", self.name, error)
            self._failing = True
            return False
        self._client = client
        # Until something was read, the next loss counts as a failure.
        self._backoff.failed()
        self._connections += 1
        if self._connections > 1:
            self._signals.bus_reconnects += 1
        _log.info("connection %s: connected", self.name)
        return True

    async def _read(self, nodes: Sequence[ua.ReadValueId]) -> list[ua.DataValue]:
        if self._client is None:
            raise ConnectionError("no session")
        self._signals.requests += 1
        parameters = ua.ReadParameters()
        parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        parameters.NodesToRead = list(nodes)
        found: list[ua.DataValue] = await self._client.uaclient.read(parameters)
        return found

    async def _lost(self, error: Exception) -> None:
        _log.warning("connection %s: lost: %r", self.name, error)
        await self.close()

    async def _drop(self, client: Client) -> None:
        try:
            await asyncio.wait_for(client.disconnect(), self._settings.timeout_s)
        except _CONNECTION_ERRORS as error:
            _log.debug("connection %s: while closing: %r", self.name, error)
            client.disconnect_socket()

    def _accept(self, tags: Sequence[NodeTag], found: Sequence[ua.DataValue], at_us: int) -> None:
        for tag, data in zip(tags, found, strict=True):
            status = data.StatusCode.value if data.StatusCode is not None else 0
            quality = quality_of(status)
            if qualities.is_bad(quality):
                self._fail((tag,), quality)
                continue
            value = value_of(data.Value.Value if data.Value is not None else None, tag)
            if value is None:
                self._fail((tag,), Quality.BAD_NONSENSE)
            else:
                self._reporter.good(tag.index, value, quality, at_us, stamp_us(data))

    def _fail(self, tags: Sequence[NodeTag], quality: Quality) -> None:
        self._signals.failures[qualities.label(quality)] += 1
        self._reporter.turn_bad([tag.index for tag in tags], quality, self._timebase.now_us())


def _read_id(tag: NodeTag) -> ua.ReadValueId:
    wanted = ua.ReadValueId()
    wanted.NodeId = ua.NodeId.from_string(tag.node)
    wanted.AttributeId = AttributeIds.Value
    return wanted
