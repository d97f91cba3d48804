"""Which readings are worth sending, per point.

Invariants

- A bad reading, without a value, is sent when a point turns bad; then there is silence until it is good again,
  which is never before it was bad: an old source time gives way to the time of the poll.
- A point with a heartbeat is sent when its value, quality or source time changes, and otherwise once per
  heartbeat. When it changes, the last unchanged poll goes out first, so that a step stays a step.
- A point without a heartbeat is sent at every poll.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.buffer.batcher import Batcher
from protocols.birth import Schema
from protocols.quality import Quality
from protocols.reading import Value
from protocols.timebase import US


@dataclass(slots=True)
class _Last:
    """What was sent last of a point, and the last poll since then that found it unchanged [µs UTC]."""

    value: Value
    quality: int
    stamp_us: int | None
    sent_us: int
    held_us: int | None = None


class Reporter:
    """Passes readings on to a batcher.

    Parameters
    ----------
    schema
        The points.
    batcher
        Takes what is worth sending.
    """

    def __init__(self, schema: Schema, batcher: Batcher) -> None:
        self.batcher = batcher
        self.bad: dict[int, int] = {}
        """Points that are bad now, and since when [µs UTC]."""
        self._types = tuple(point.value_type for point in schema.points)
        self._heartbeats_us = tuple(
            None if point.heartbeat_s is None else round(point.heartbeat_s * US) for point in schema.points
        )
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
        at_us = polled_us if stamp_us is None or (bad_us is not None and stamp_us <= bad_us) else stamp_us
        heartbeat_us = self._heartbeats_us[point]
        if heartbeat_us is not None:
            last = self._last.get(point)
            if last and (last.value, last.quality, last.stamp_us) == (value, quality, stamp_us):
                if polled_us - last.sent_us < heartbeat_us:
                    last.held_us = polled_us
                    return
                at_us = polled_us
            elif last:
                self._send_held(point, last, at_us)
            self._last[point] = _Last(value, quality, stamp_us, at_us)
        self._send(point, at_us, value, quality)

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
            self._send(point, last.held_us, last.value, last.quality)

    def _send(self, point: int, at_us: int, value: Value, quality: int) -> None:
        self.batcher.extend(self._types[point], (point,), at_us, (value,), quality)
