"""OPC-UA: one session; nodes polled in blocks, or subscribed to, with the source's timestamps.

Invariants

- A reading's time is the source's timestamp, else the server's, else the middle of the read. The time of a clock
  that was never set (a controller that starts in 1970 or 2000) is none.
- The same value with the same timestamp is not sent again until the heartbeat, then with the time of the read.
- A node that the server does not know, or reports bad, is bad alone; the others of its block go on.
- Where security is configured, nothing but the server of the known certificate is ever talked to.
- A node that is wanted by subscription, and of which the subscription says nothing, is read at its poll times.
- A new session is made, after a jittered pause, whenever the old one fails; there is never a second one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from asyncua import ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UaClientState
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.uaerrors import UaError

from edge_agent.clock import Clock
from edge_agent.drivers.base import Backoff, Turn
from edge_agent.drivers.opcua_security import explained, make_safe
from edge_agent.drivers.opcua_subscription import TOO_MUCH, Known, Subscription, read_id
from edge_agent.drivers.opcua_values import quality_of, stamp_us, value_of
from edge_agent.errors import EdgeError
from edge_agent.points import NodeTag, OpcUaBus, Timing
from edge_agent.polling.reporter import Reporter
from edge_agent.signals import Signals
from protocols import quality as qualities
from protocols.quality import Quality
from protocols.timebase import US

_log = logging.getLogger(__name__)

_FIRST_RECONNECT_S = 0.5
_WATCHDOG_S = 10.0
_CONNECTION_ERRORS = (OSError, asyncio.TimeoutError, UaError)
_CARE_S = 1.0
"""How often a subscription is looked after, real time."""
_SESSION_TIMEOUT_S = 120.0
"""So that a session left behind by a crash does not take the server's room for an hour."""


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
        self._clock = clock
        self._reporter = reporter
        self._signals = signals
        groups: dict[tuple[Timing, bool], list[NodeTag]] = {}
        for device in bus.devices:
            groups.setdefault((device.timing, device.subscribed), []).extend(device.tags)
        self._groups = [(tuple(tags), subscribed) for (_, subscribed), tags in groups.items()]
        self._nodes = {tag.index: read_id(ua.NodeId.from_string(tag.node)) for tags in groups.values() for tag in tags}
        self._subscribed = tuple(tag for tags, subscribed in self._groups if subscribed for tag in tags)
        turns = [Turn(f"{self.name}/{timing.interval_us / US:g}s", timing) for timing, _ in groups]
        self._subscription: Subscription | None = None
        if self._subscribed:
            care = Timing(max(1, round(_CARE_S * clock.timebase.speed * US)), 0)
            turns.append(Turn(f"{self.name}/subscription", care))
            self._subscription = Subscription(bus.settings, self._subscribed, clock, self._report, reporter, signals)
        self.turns = tuple(turns)
        self._per_read = bus.settings.nodes_per_read
        self._client: Client | None = None
        self._backoff = Backoff(_FIRST_RECONNECT_S, bus.settings.reconnect_max_s)
        self._connections = 0
        self._renew_at_s = 0.0
        self._failing = False
        # Its own log tells each failed attempt at length; what matters is counted and logged here.
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)

    async def poll(self, turn: int) -> None:
        """Read a group of nodes; see `Driver.poll`."""
        if self._client is not None and time.time() >= self._renew_at_s:
            _log.info("connection %s: connecting again with a new certificate", self.name)
            if self._subscription is not None:
                self._subscription.forget()
            await self.close()
        if turn == len(self._groups):
            await self._care()
            return
        tags, subscribed = self._groups[turn]
        if self._client is None and not await self._connect():
            self._fail(tags, Quality.BAD_NO_COMMUNICATION)
            return
        if subscribed and self._subscription is not None:
            self._subscription.confirm(tags)
            tags = tuple(self._subscription.pending(tags))
        if tags:
            await self._read_all(tags)

    async def close(self) -> None:
        """End the session."""
        client, self._client = self._client, None
        if client is not None:
            await self._drop(client)

    async def _read_all(self, tags: tuple[NodeTag, ...]) -> None:
        start = 0
        while start < len(tags):
            size = min(self._per_read, len(tags) - start)
            block = tags[start : start + size]
            started_ns = time.monotonic_ns()
            try:
                found = await self._read([self._nodes[tag.index] for tag in block])
            except _CONNECTION_ERRORS as error:
                if getattr(error, "code", None) in TOO_MUCH and size > 1:
                    self._per_read = size // 2
                    _log.warning("connection %s: reading %d nodes at once from now on", self.name, self._per_read)
                    continue
                await self._lost(error)
                self._fail(tags[start:], Quality.BAD_NO_COMMUNICATION)
                return
            at_us = self._clock.plant_us((started_ns + time.monotonic_ns()) // 2)
            if len(found) == size:
                self._accept(block, found, at_us)
            else:
                self._fail(block, Quality.BAD_NONSENSE)
            start += size
        self._backoff.succeeded()
        self._failing = False

    async def _care(self) -> None:
        """Look after the subscription."""
        if self._subscription is None:
            return
        if self._client is None and not await self._connect():
            self._fail(self._subscribed, Quality.BAD_NO_COMMUNICATION)
            return
        if self._client is None:
            return
        try:
            if self._client.state is not UaClientState.CONNECTED:
                raise ConnectionError("closed by the server")
            await self._subscription.keep(self._client.uaclient.session)
        except _CONNECTION_ERRORS as error:
            await self._lost(error)
            return
        if self._subscription.alive:
            self._backoff.succeeded()
            self._failing = False

    async def _connect(self) -> bool:
        if not self._backoff.due:
            return False
        client = Client(self._settings.endpoint, timeout=self._settings.timeout_s, watchdog_intervall=_WATCHDOG_S)
        client.name = client.description = "metercarbon edge-agent"
        client.session_timeout = round(1000 * _SESSION_TIMEOUT_S)
        try:
            self._renew_at_s = await asyncio.wait_for(make_safe(client, self._settings), 3 * self._settings.timeout_s)
            await asyncio.wait_for(client.connect(), 3 * self._settings.timeout_s)
            await self._respect_limits(client)
        except (*_CONNECTION_ERRORS, EdgeError) as error:
            await self._drop(client)
            self._backoff.failed()
            if not self._failing:
                _log.warning(
                    "connection %s: cannot connect, trying again: %s", self.name, explained(error, self._settings)
                )
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

    async def _respect_limits(self, client: Client) -> None:
        """Ask the server how much it takes in one call; many do not say."""
        parameters = ua.ReadParameters()
        parameters.NodesToRead = [read_id(ua.NodeId.from_string(f"i={node}")) for node in _LIMITS]
        self._signals.requests += 1
        limits = [
            data.Value.Value if data.Value is not None else None for data in await client.uaclient.read(parameters)
        ]
        nodes, items = (limit if isinstance(limit, int) and limit > 0 else None for limit in limits)
        if nodes is not None:
            self._per_read = min(self._per_read, nodes)
        if items is not None and self._subscription is not None:
            self._subscription.limit(items)

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
        self._backoff.failed()
        await self.close()
        if self._subscription is not None:
            self._subscription.forget()
            self._fail(self._subscribed, Quality.BAD_NO_COMMUNICATION)

    async def _drop(self, client: Client) -> None:
        try:
            await asyncio.wait_for(client.disconnect(), self._settings.timeout_s)
        except _CONNECTION_ERRORS as error:
            _log.debug("connection %s: while closing: %r", self.name, error)
            client.disconnect_socket()

    def _accept(self, tags: Sequence[NodeTag], found: Sequence[ua.DataValue], at_us: int) -> None:
        for tag, data in zip(tags, found, strict=True):
            self._report(tag, data, at_us)

    def _report(self, tag: NodeTag, data: ua.DataValue, at_us: int) -> Known | None:
        """Report what a node has; returns what of it holds until the node says otherwise."""
        quality = quality_of(data.StatusCode.value if data.StatusCode is not None else 0)
        if qualities.is_bad(quality):
            self._fail((tag,), quality)
            return None
        value = value_of(data.Value.Value if data.Value is not None else None, tag)
        if value is None:
            self._fail((tag,), Quality.BAD_NONSENSE)
            return None
        stamp = stamp_us(data)
        self._reporter.good(tag.index, value, quality, at_us, stamp)
        if quality == Quality.UNCERTAIN_OVERFLOW:
            # What was lost came before this value; from now on it is as good as any.
            return Known(value, Quality.GOOD, None)
        return Known(value, quality, stamp)

    def _fail(self, tags: Sequence[NodeTag], quality: Quality) -> None:
        self._signals.failures[qualities.label(quality)] += 1
        self._reporter.turn_bad([tag.index for tag in tags], quality, self._clock.now_us())


_LIMITS = (
    ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
)
