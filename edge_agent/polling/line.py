"""A driver under observation: how late its polls are, which fail, and whether they come to an end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from edge_agent.clock import Clock
from edge_agent.drivers.base import Driver, Turn
from edge_agent.polling.reporter import Reporter
from protocols.timebase import US


class Line:
    """One connection as the schedule sees it: its driver, and what is known of its polls.

    Parameters
    ----------
    driver
        What does the work.
    points
        Points by device.
    clock
        Plant time.
    reporter
        Knows which points are bad.
    """

    def __init__(self, driver: Driver, points: Mapping[str, Sequence[int]], clock: Clock, reporter: Reporter) -> None:
        self.name = driver.name
        self.polls: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.lag_s = 0.0
        """How late the last poll began [s], plant time."""
        self._driver = driver
        self._clock = clock
        self._reporter = reporter
        # A turn is a device, or a group of nodes of several.
        everything: tuple[int, ...] = ()
        if any(turn.name not in points for turn in driver.turns):
            everything = tuple(point for found in points.values() for point in found)
        self._points = [points.get(turn.name, everything) for turn in driver.turns]
        self._busy_since: float | None = None
        self._resting = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._idle_since = time.monotonic()
        intervals_us = [turn.timing.interval_us for turn in driver.turns]
        self._interval_s = clock.timebase.real_seconds(min(intervals_us) / US) if intervals_us else None

    @property
    def turns(self) -> Sequence[Turn]:
        """What is polled; see `Driver.turns`."""
        return self._driver.turns

    async def poll(self, turn: int) -> None:
        """Poll one of `turns`; see `Driver.poll`. Once the line rests, this waits to be cancelled."""
        if self._resting:
            await asyncio.get_running_loop().create_future()
        found = self._driver.turns[turn]
        timing = found.timing
        self.lag_s = (self._clock.now_us() - timing.phase_us) % timing.interval_us / US
        self._busy_since = time.monotonic()
        self._idle.clear()
        try:
            await self._driver.poll(turn)
        except Exception:
            self.failed[found.name] += 1
            raise
        finally:
            self._busy_since = None
            self._idle.set()
            self._idle_since = time.monotonic()
            self.polls[found.name] += 1
        if self._reporter.bad and not self._reporter.bad.keys().isdisjoint(self._points[turn]):
            self.failed[found.name] += 1

    async def rest(self) -> None:
        """Begin no more polls, and wait until the one under way has come to its end."""
        self._resting = True
        await self._idle.wait()

    async def close(self) -> None:
        """Close the connection."""
        await self._driver.close()

    def trouble(self, limit_s: float) -> str | None:
        """What has gone on for longer than the limit [s], beyond the wait for the next poll."""
        now = time.monotonic()
        if self._busy_since is not None and now - self._busy_since > limit_s:
            return f"a poll on connection {self.name} has not ended for {limit_s:g} s"
        idle_s = now - self._idle_since
        if self._interval_s is not None and self._busy_since is None and idle_s > limit_s + self._interval_s:
            return f"connection {self.name} has not been polled for {idle_s:.0f} s"
        return None
