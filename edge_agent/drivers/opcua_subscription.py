"""OPC-UA: a subscription that is looked after, so that no node falls silent unseen.

Invariants

- Every wanted node is a living item of the subscription, or it is `pending`: then it is to be read, and an
  item for it is tried again at every comparison with the server.
- A notification is handled before the next one is asked for, and only when there is room for its readings:
  nothing waits in memory. What the server must drop meanwhile it marks in the next value (overflow).
- An item that the server says it has, but whose changes it does not report, is found by reading some items
  back at each comparison.
- A value that stands still is confirmed only up to a moment of which the server has reported all changes.
- Silence, a hole in the sequence, or an end reported by the server makes a new subscription, which reports
  every value again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from asyncua import ua
from asyncua.client.ua_session import UaSession
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from edge_agent.clock import Clock
from edge_agent.config import OpcUa
from edge_agent.drivers.base import Backoff
from edge_agent.drivers.opcua_values import quality_of, time_us, value_of
from edge_agent.points import NodeTag
from edge_agent.polling.reporter import Reporter
from edge_agent.signals import Signals
from protocols import quality as qualities
from protocols.quality import Quality
from protocols.reading import Value
from protocols.timebase import US

_log = logging.getLogger(__name__)

TOO_MUCH = frozenset(
    {
        StatusCodes.BadTooManyOperations,
        StatusCodes.BadEncodingLimitsExceeded,
        StatusCodes.BadResponseTooLarge,
        StatusCodes.BadRequestTooLarge,
        StatusCodes.BadTcpMessageTooLarge,
    }
)
"""Refusals of a request for its size."""
_SESSION_LOST = frozenset(
    {
        StatusCodes.BadSessionIdInvalid,
        StatusCodes.BadSessionClosed,
        StatusCodes.BadSessionNotActivated,
        StatusCodes.BadSecureChannelIdInvalid,
        StatusCodes.BadSecureChannelClosed,
        StatusCodes.BadSecurityChecksFailed,
        StatusCodes.BadConnectionClosed,
        StatusCodes.BadCommunicationError,
        StatusCodes.BadServerHalted,
        StatusCodes.BadShutdown,
        StatusCodes.BadTimeout,
        StatusCodes.BadRequestTimeout,
    }
)
_SUBSCRIPTION_LOST = frozenset({StatusCodes.BadSubscriptionIdInvalid, StatusCodes.BadNoSubscription})
_FILTER_REFUSED = frozenset(
    {
        StatusCodes.BadMonitoredItemFilterInvalid,
        StatusCodes.BadMonitoredItemFilterUnsupported,
        StatusCodes.BadFilterNotAllowed,
        StatusCodes.BadDeadbandFilterInvalid,
    }
)
KEEP_ALIVES = 10
"""Empty publishing intervals until the server says that it is alive."""
_LIFETIME_S = 60.0
"""Without a request for so long the server drops the subscription."""
_QUEUE_MARGIN = 3
_MAX_SINGLE_REFUSALS = 8
_CLOCK_HANDLE = 0
_CLOCK_SAMPLING_S = 1.0
_MAX_SKEW_US = 3600 * US
_NAMED = 5

Accept = Callable[[NodeTag, ua.DataValue, int], "Known | None"]
"""Reports what a node has, received at a plant time [µs UTC]; what of it holds until the next change."""


@dataclass(frozen=True, slots=True)
class Known:
    """A value that a node has until it says otherwise, with the source's time [µs UTC]."""

    value: Value
    quality: int
    stamp_us: int | None


@dataclass(slots=True)
class _Item:
    handle: int
    tag: NodeTag
    node_id: ua.NodeId
    server_id: int | None = None
    filtered: bool = True
    made_at: float = 0.0
    notified: int = 0
    known: Known | None = None
    known_ns: int = 0
    """When that was received, by the monotonic clock."""
    refusal: int = 0


class Subscription:
    """One subscription with the items for its tags.

    Parameters
    ----------
    settings
        The connection.
    tags
        What to subscribe to.
    clock
        Plant time.
    accept
        Takes what arrives.
    reporter
        Takes confirmations of what stands still.
    signals
        Counters.
    """

    def __init__(
        self,
        settings: OpcUa,
        tags: Sequence[NodeTag],
        clock: Clock,
        accept: Accept,
        reporter: Reporter,
        signals: Signals,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._accept = accept
        self._reporter = reporter
        self._signals = signals
        # Handle 0 is the server's clock.
        self._items = [_Item(handle, tag, ua.NodeId.from_string(tag.node)) for handle, tag in enumerate(tags, 1)]
        self._of_point = {item.tag.index: item for item in self._items}
        self._per_call = settings.items_per_call
        self._backoff = Backoff(settings.publish_interval_s, settings.reconcile_interval_s)
        self._can_reconcile = True
        self._audited = 0
        self._suspects: dict[int, int] = {}
        self._reconcile_at = 0.0
        self._id: int | None = None
        self._publish_s = settings.publish_interval_s
        self._keep_alive_s = KEEP_ALIVES * self._publish_s
        self._sequence: int | None = None
        self._handling = False
        self._heard_at = 0.0
        self._ticked_at: float | None = None
        self._received_ns = 0
        self._skew_us = 0
        self._ended: str | None = None

    @property
    def alive(self) -> bool:
        """Whether anything was heard from it."""
        return self._id is not None and self._received_ns > 0

    async def keep(self, session: UaSession) -> None:
        """Look after it: make it, make lost items again, compare with the server when it is time.

        Raises
        ------
        ConnectionError
            If nothing is heard any more.
        OSError, asyncio.TimeoutError, UaError
            If the session does not work any more.
        """
        try:
            if self._id is not None and self._ended is None:
                self._check_silence()
                if time.monotonic() >= self._reconcile_at:
                    await self._reconcile(session)
                    await self._audit(session)
                    await self._make_items(session)
            elif self._backoff.due:
                await self._make(session)
        except UaStatusCodeError as error:
            if error.code in _SESSION_LOST:
                raise
            if error.code in _SUBSCRIPTION_LOST:
                self._end(f"the server does not know it: {error}")
                return
            self._no_items()
            self._backoff.failed()
            # It may exist, without items: then it is to be deleted.
            self._ended = str(error)
            _log.warning("connection %s: no subscription, nodes are polled: %s", self._settings.name, error)

    def limit(self, items_per_call: int) -> None:
        """Respect the server's limit of items in one call."""
        self._per_call = min(self._per_call, items_per_call)

    def forget(self) -> None:
        """The session is gone, and the subscription with it."""
        self.confirm(item.tag for item in self._items)
        self._no_items()
        self._id = None

    def pending(self, tags: Iterable[NodeTag]) -> list[NodeTag]:
        """Those of `tags` of which the subscription says nothing: they are to be read."""
        patience_at = time.monotonic() - self._settings.silence_limit_s
        return [
            tag
            for tag, item in ((tag, self._of_point[tag.index]) for tag in tags)
            if item.server_id is None or (not item.notified and item.made_at < patience_at)
        ]

    def confirm(self, tags: Iterable[NodeTag]) -> None:
        """Say of values that stand still that they do, so that silence is not taken for a gap."""
        if self._id is None or self._ended is not None:
            return
        # By the monotonic clock: the other one may have been set meanwhile.
        until_ns = self._received_ns + 1000 * (self._skew_us - round(self._publish_s * US))
        for tag in tags:
            item = self._of_point[tag.index]
            known = item.known
            if known is None or item.server_id is None:
                continue
            at_ns = until_ns - round(1000 * tag.sampling_s * US)
            if at_ns > item.known_ns:
                at_us = self._clock.plant_us(at_ns)
                self._reporter.good(tag.index, known.value, known.quality, at_us, known.stamp_us)

    def _check_silence(self) -> None:
        now = time.monotonic()
        if self._handling:
            return
        limit_s = max(self._settings.silence_limit_s, 1.5 * self._keep_alive_s)
        if self._ticked_at is not None:
            # The server's clock never stands still.
            if now - self._ticked_at > self._settings.silence_limit_s:
                raise ConnectionError(f"subscription silent for {now - self._ticked_at:.1f} s")
        elif now - self._heard_at > limit_s:
            raise ConnectionError(f"subscription silent for {now - self._heard_at:.1f} s")

    # Making

    async def _make(self, session: UaSession) -> None:
        if self._id is not None:
            old, self._id = self._id, None
            await self._unmake(session, old)
        self._no_items()
        parameters = ua.CreateSubscriptionParameters()
        parameters.RequestedPublishingInterval = ua.Duration(1000 * self._settings.publish_interval_s)
        parameters.RequestedMaxKeepAliveCount = ua.Counter(KEEP_ALIVES)
        lifetime = max(3 * KEEP_ALIVES, math.ceil(_LIFETIME_S / self._settings.publish_interval_s))
        parameters.RequestedLifetimeCount = ua.Counter(lifetime)
        parameters.PublishingEnabled = True
        self._signals.requests += 1
        self._heard_at = time.monotonic()
        made = await session.create_subscription(parameters, self._published)
        self._id = int(made.SubscriptionId)
        self._publish_s = max(made.RevisedPublishingInterval / 1000, 0.001)
        self._keep_alive_s = made.RevisedMaxKeepAliveCount * self._publish_s
        # If the server refuses this one, its keep-alives are the only sign of life.
        await self._create(session, [self._request(_CLOCK_HANDLE, _CLOCK, _CLOCK_SAMPLING_S, None)])
        await self._make_items(session)
        self._backoff.succeeded()
        living = sum(item.server_id is not None for item in self._items)
        _log.info("connection %s: subscribed to %d of %d nodes", self._settings.name, living, len(self._items))

    async def _unmake(self, session: UaSession, subscription: int) -> None:
        """Delete the old one, which may be gone already."""
        try:
            await session.delete_subscriptions([subscription])
        except UaStatusCodeError as error:
            if error.code in _SESSION_LOST:
                raise
            _log.debug("connection %s: deleting a subscription: %s", self._settings.name, error)

    def _no_items(self) -> None:
        self._suspects.clear()
        self._ended = self._sequence = self._ticked_at = None
        self._received_ns = self._skew_us = 0
        for item in self._items:
            item.server_id = item.known = None
            item.notified = 0

    async def _make_items(self, session: UaSession) -> None:
        """Make the items that are missing; what the server refuses stays pending."""
        self._reconcile_at = time.monotonic() + self._settings.reconcile_interval_s
        missing = [handle for handle, item in enumerate(self._items, 1) if item.server_id is None]
        refused: list[tuple[_Item, int]] = []
        alone = 0
        blocks = list(_blocks(missing, self._per_call))[::-1]
        while blocks:
            block = blocks.pop()
            if len(block) > self._per_call:
                blocks.extend(list(_blocks(block, self._per_call))[::-1])
                continue
            try:
                results = await self._create(session, [self._wanted(handle) for handle in block])
            except UaStatusCodeError as error:
                if error.code in _SESSION_LOST | _SUBSCRIPTION_LOST:
                    raise
                if len(block) > 1 and alone < _MAX_SINGLE_REFUSALS:
                    # One node that the server cannot digest must not cost the others.
                    half = len(block) // 2
                    blocks += [block[half:], block[:half]]
                    if error.code in TOO_MUCH:
                        self._per_call = half
                        _log.warning("connection %s: making %d items at once from now on", self._settings.name, half)
                    continue
                alone += 1
                refused += [(self._items[handle - 1], error.code) for handle in block]
                continue
            again = []
            for handle, result in zip(block, results, strict=True):
                item = self._items[handle - 1]
                code = result.StatusCode.value
                if result.StatusCode.is_good():
                    item.server_id, item.made_at, item.refusal = result.MonitoredItemId, time.monotonic(), 0
                elif code in _FILTER_REFUSED and item.filtered and _has_deadband(item.tag):
                    item.filtered = False
                    again.append(handle)
                else:
                    refused.append((item, code))
            if again:
                _log.warning(
                    "connection %s: the server refuses the deadband of %d nodes", self._settings.name, len(again)
                )
                blocks.append(again)
        self._refused(refused)

    def _refused(self, refused: list[tuple[_Item, int]]) -> None:
        fresh = [(item, code) for item, code in refused if item.refusal != code]
        for item, code in refused:
            item.refusal = code
            if quality_of(code) == Quality.BAD_CONFIGURATION:
                self._reporter.turn_bad([item.tag.index], Quality.BAD_CONFIGURATION, self._clock.now_us())
        if fresh:
            named = ", ".join(
                f"{item.tag.node} ({ua.StatusCode(ua.UInt32(code)).name})" for item, code in fresh[:_NAMED]
            )
            _log.warning("connection %s: %d nodes not subscribed: %s", self._settings.name, len(fresh), named)

    async def _create(
        self, session: UaSession, wanted: list[ua.MonitoredItemCreateRequest]
    ) -> list[ua.MonitoredItemCreateResult]:
        parameters = ua.CreateMonitoredItemsParameters()
        parameters.SubscriptionId = ua.IntegerId(self._id or 0)
        parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        parameters.ItemsToCreate = wanted
        self._signals.requests += 1
        results: list[ua.MonitoredItemCreateResult] = await session.create_monitored_items(parameters)
        if len(results) != len(wanted):
            raise ConnectionError(f"{len(results)} answers for {len(wanted)} items")
        return results

    def _wanted(self, handle: int) -> ua.MonitoredItemCreateRequest:
        item = self._items[handle - 1]
        deadband = _deadband(item.tag) if item.filtered and _has_deadband(item.tag) else None
        return self._request(handle, item.node_id, item.tag.sampling_s, deadband)

    def _request(
        self, handle: int, node: ua.NodeId, sampling_s: float, deadband: ua.DataChangeFilter | None
    ) -> ua.MonitoredItemCreateRequest:
        request = ua.MonitoredItemCreateRequest()
        request.ItemToMonitor.NodeId = node
        request.ItemToMonitor.AttributeId = AttributeIds.Value
        request.MonitoringMode = ua.MonitoringMode.Reporting
        asked = request.RequestedParameters
        asked.ClientHandle = ua.IntegerId(handle)
        asked.SamplingInterval = ua.Duration(1000 * sampling_s)
        asked.QueueSize = ua.Counter(math.ceil(self._publish_s / sampling_s) + _QUEUE_MARGIN)
        asked.DiscardOldest = True
        asked.Filter = deadband
        return request

    async def _reconcile(self, session: UaSession) -> None:
        """Find the items that the server does not have any more."""
        if not self._can_reconcile:
            return
        by_id = {item.server_id: item for item in self._items if item.server_id is not None}
        lost = 0
        for block in _blocks(list(by_id), self._per_call):
            parameters = ua.SetMonitoringModeParameters()
            parameters.SubscriptionId = ua.IntegerId(self._id or 0)
            parameters.MonitoringMode = ua.MonitoringMode.Reporting
            parameters.MonitoredItemIds = [ua.IntegerId(server_id) for server_id in block]
            self._signals.requests += 1
            try:
                results = await session.set_monitoring_mode(parameters)
            except UaStatusCodeError as error:
                if error.code in _SESSION_LOST | _SUBSCRIPTION_LOST:
                    raise
                if error.code in TOO_MUCH and len(block) > 1:
                    self._per_call = len(block) // 2
                else:
                    self._can_reconcile = False
                    _log.warning(
                        "connection %s: the server cannot be asked for its items: %s", self._settings.name, error
                    )
                return
            if len(results) != len(block):
                raise ConnectionError(f"{len(results)} answers for {len(block)} items")
            for server_id, status in zip(block, results, strict=True):
                if not status.is_good():
                    _unmade(by_id[server_id])
                    lost += 1
        self._lost(lost)

    async def _audit(self, session: UaSession) -> None:
        """Read some items back. One that differs, and is not reported until the next time, is dead."""
        dead = [
            item
            for item in (self._items[handle - 1] for handle in self._suspects)
            if item.server_id is not None and item.notified == self._suspects[item.handle]
        ]
        if dead:
            parameters = ua.DeleteMonitoredItemsParameters()
            parameters.SubscriptionId = ua.IntegerId(self._id or 0)
            parameters.MonitoredItemIds = [ua.IntegerId(item.server_id or 0) for item in dead]
            self._signals.requests += 1
            await session.delete_monitored_items(parameters)
            for item in dead:
                _unmade(item)
            self._lost(len(dead))
        self._suspects.clear()
        count = min(len(self._items), self._settings.nodes_per_read, self._per_call)
        chosen = [self._items[(self._audited + n) % len(self._items)] for n in range(count)]
        self._audited = (self._audited + count) % len(self._items)
        chosen = [item for item in chosen if item.server_id is not None and item.notified]
        if not chosen:
            return
        before = [item.notified for item in chosen]
        reading = ua.ReadParameters()
        reading.NodesToRead = [read_id(item.node_id) for item in chosen]
        self._signals.requests += 1
        try:
            found = await session.read(reading)
        except UaStatusCodeError as error:
            if error.code in _SESSION_LOST:
                raise
            # The turns that read nodes find out what the server takes.
            _log.debug("connection %s: reading items back: %s", self._settings.name, error)
            return
        if len(found) != len(chosen):
            raise ConnectionError(f"{len(found)} answers for {len(chosen)} nodes")
        for item, notified, data in zip(chosen, before, found, strict=True):
            if item.notified == notified and _differs(item, data):
                self._suspects[item.handle] = notified

    def _lost(self, lost: int) -> None:
        if lost:
            self._signals.failures["lost_item"] += lost
            _log.warning("connection %s: the server lost %d items; they are made again", self._settings.name, lost)

    # What arrives

    async def _published(self, result: ua.PublishResult) -> None:
        """Handle what was published; called by the session, which asks for more only afterwards."""
        if result.SubscriptionId != self._id:
            return
        received_ns = time.monotonic_ns()
        started = time.monotonic()
        self._handling = True
        try:
            await self._reporter.batcher.room()
            self._take(result.NotificationMessage, received_ns)
        except Exception:  # noqa: BLE001 (the session would swallow it, and the values would be lost unseen)
            _log.exception("connection %s: a notification could not be handled", self._settings.name)
            self._signals.failures["internal"] += 1
            self._end("a notification could not be handled")
        finally:
            self._handling = False
            self._heard_at = time.monotonic()
            if self._ticked_at is not None:
                # Waiting for the disk is not the server's silence.
                self._ticked_at += self._heard_at - started
        if not result.MoreNotifications:
            self._received_ns = received_ns

    def _take(self, message: ua.NotificationMessage, received_ns: int) -> None:
        notifications = message.NotificationData or ()
        sequence = int(message.SequenceNumber)
        if notifications:
            if self._sequence is not None and sequence > self._sequence + 1:
                self._signals.failures["sequence"] += 1
                self._end(f"messages {self._sequence + 1} to {sequence - 1} were lost")
            self._sequence = sequence
        at_us = self._clock.plant_us(received_ns)
        for notification in notifications:
            if isinstance(notification, ua.DataChangeNotification):
                for found in notification.MonitoredItems:
                    self._changed(int(found.ClientHandle), found.Value, at_us, received_ns)
            elif isinstance(notification, ua.StatusChangeNotification):
                self._end(f"the server ended it: {notification.Status}")

    def _changed(self, handle: int, data: ua.DataValue, at_us: int, received_ns: int) -> None:
        if handle == _CLOCK_HANDLE:
            self._ticked(data, received_ns)
        elif handle <= len(self._items):
            item = self._items[handle - 1]
            item.notified += 1
            item.known, item.known_ns = self._accept(item.tag, data, at_us), received_ns

    def _ticked(self, data: ua.DataValue, received_ns: int) -> None:
        """The server's clock: a sign of life, and how far it is behind ours."""
        stamp = data.Value.Value if data.Value is not None else None
        if not isinstance(stamp, datetime):
            return
        # The first value comes even where changes are never seen.
        if self._ticked_at is not None or self._received_ns:
            self._ticked_at = time.monotonic()
        # It was sampled, and published, at most so much earlier.
        late_us = round((self._publish_s + _CLOCK_SAMPLING_S) * US)
        received_us = self._clock.real_us() - (time.monotonic_ns() - received_ns) // 1000
        skew_us = min(0, time_us(stamp) - received_us + late_us)
        self._skew_us = skew_us if skew_us > -_MAX_SKEW_US else 0

    def _end(self, reason: str) -> None:
        if self._ended is None:
            self._ended = reason
            self._backoff.failed()
            _log.warning("connection %s: a new subscription is needed: %s", self._settings.name, reason)


def _unmade(item: _Item) -> None:
    item.server_id = item.known = None
    item.notified = 0


def _differs(item: _Item, data: ua.DataValue) -> bool:
    """Whether a value read is another than the last one reported, by more than may go unreported."""
    bad = qualities.is_bad(quality_of(data.StatusCode.value if data.StatusCode is not None else 0))
    found = None if bad or data.Value is None else value_of(data.Value.Value, item.tag)
    last = None if item.known is None else item.known.value
    if item.filtered and _has_deadband(item.tag) and isinstance(found, float | int) and isinstance(last, float | int):
        allowed = item.tag.deadband * abs(item.tag.scale) if item.tag.deadband else math.inf
        return abs(found - last) > allowed
    return found != last


def read_id(node: ua.NodeId) -> ua.ReadValueId:
    """What asks for a node's value."""
    wanted = ua.ReadValueId()
    wanted.NodeId = node
    wanted.AttributeId = AttributeIds.Value
    return wanted


_CLOCK = ua.NodeId(ua.Int32(ObjectIds.Server_ServerStatus_CurrentTime), ua.Int16(0))


def _has_deadband(tag: NodeTag) -> bool:
    return tag.deadband > 0 or tag.deadband_percent > 0


def _deadband(tag: NodeTag) -> ua.DataChangeFilter:
    made = ua.DataChangeFilter()
    made.Trigger = ua.DataChangeTrigger.StatusValue
    kind = ua.DeadbandType.Percent if tag.deadband_percent else ua.DeadbandType.Absolute
    made.DeadbandType = ua.UInt32(kind)
    made.DeadbandValue = ua.Double(tag.deadband_percent or tag.deadband)
    return made


def _blocks(items: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
