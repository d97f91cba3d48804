"""Which readings are worth sending, per point.

Invariants

- A bad reading, without a value, is sent when a point turns bad; then there is silence until it is good again,
  which is never before it was bad: an old source time gives way to the time of the poll.
- While readings wait for the clock to be right, all have the time of the poll, so that all can be re-timed.
- A point with a heartbeat is sent when its value, quality or source time changes, and otherwise once per
  heartbeat. When it changes, the last poll that was not sent goes out first, so that a step stays a step.
- With a deadband, a value has changed when it lies further than that from the one sent last; so a slow drift
  is followed, a deadband behind at most. The deadband is absolute, or a share of the value sent last.
- A point without a heartbeat is sent at every poll.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.buffer.batcher import Batcher
from protocols.birth import AnySchema
from protocols.quality import Quality
from protocols.reading import Value, ValueType
from protocols.timebase import US


@dataclass(slots=True)
class _Last:
    """What was sent last of a point, and the last poll since then that was not worth sending [µs UTC]."""

    value: Value
    quality: int
    stamp_us: int | None
    sent_us: int
    held_us: int | None = None
    held: Value = None


class Reporter:
    """Passes readings on to a batcher.

    Parameters
    ----------
    schema
        The points.
    batcher
        Takes what is worth sending.
    """

    def __init__(self, schema: AnySchema, batcher: Batcher) -> None:
        self.batcher = batcher
        self.bad: dict[int, int] = {}
        """Points that are bad now, and since when [µs UTC]."""
        self._types: list[ValueType] = schema.column("value_type")
        self._heartbeats_us = [
            None if heartbeat_s is None else round(heartbeat_s * US) for heartbeat_s in schema.column("heartbeat_s")
        ]
        self._deadbands = {
            point: (absolute or 0.0, (percent or 0.0) / 100)
            for point, (absolute, percent) in enumerate(
                zip(schema.column("deadband"), schema.column("deadband_percent"), strict=True)
            )
            if absolute or percent
        }
        self._last: dict[int, _Last] = {}

    def is_plain(self, points: Iterable[int]) -> bool:
        """Whether every poll of these points is sent."""
        return all(self._heartbeats_us[point] is None for point in points)

    def good(self, point: int, value: Value, quality: int, polled_us: int, stamp_us: int | None = None) -> None:
        """Take a reading with a value.

        Parameters
        ----------
        point
            Index in the schema.
        value, quality
            What was read.
        polled_us
            When it was read [µs UTC].
        stamp_us
            When the source says that it was measured [µs UTC]; None: when it was read.
        """
        bad_us = self.bad.pop(point, None)
        by_poll = stamp_us is None or self.batcher.holding or (bad_us is not None and stamp_us <= bad_us)
        at_us = polled_us if stamp_us is None or by_poll else stamp_us
        heartbeat_us = self._heartbeats_us[point]
        if heartbeat_us is not None:
            last = self._last.get(point)
            if last and (last.value, last.quality, last.stamp_us) == (value, quality, stamp_us):
                if polled_us - last.sent_us < heartbeat_us:
                    last.held_us, last.held = polled_us, value
                    return
                at_us = polled_us
            elif last and last.quality == quality and self._within_deadband(point, last.value, value):
                if at_us - last.sent_us < heartbeat_us:
                    last.held_us, last.held = at_us, value
                    return
            elif last:
                self._send_held(point, last, at_us)
            self._last[point] = _Last(value, quality, stamp_us, at_us)
        self._send(point, at_us, value, quality)

    def restart(self) -> None:
        """Forget what was sent, since the clock is about to be set; what was not sent of it goes out first."""
        for point, last in self._last.items():
            if last.held_us is not None:
                self._send(point, last.held_us, last.held, last.quality)
        self._last.clear()

    def turn_bad(self, points: Iterable[int], quality: Quality, at_us: int) -> None:
        """Report points bad, those that are not known to be so already."""
        for point in points:
            if point in self.bad:
                continue
            self.bad[point] = at_us
            last = self._last.pop(point, None)
            if last:
                self._send_held(point, last, at_us)
            self._send(point, at_us, None, quality)

    def _send_held(self, point: int, last: _Last, before_us: int) -> None:
        if last.held_us is not None and last.held_us < before_us:
            self._send(point, last.held_us, last.held, last.quality)

    def _within_deadband(self, point: int, sent: Value, value: Value) -> bool:
        deadband = self._deadbands.get(point)
        if deadband is None or not isinstance(sent, int | float) or not isinstance(value, int | float):
            return False
        absolute, share = deadband
        return abs(value - sent) <= max(absolute, share * abs(sent))

    def _send(self, point: int, at_us: int, value: Value, quality: int) -> None:
        self.batcher.extend(self._types[point], (point,), at_us, (value,), quality)
