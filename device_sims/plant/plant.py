"""The plant at any time: days are computed when they are needed, each from the end of the one before.

Invariants

- A plant is a pure function of its configuration and seed; in which order it is asked does not matter.
- Totals never step, also not at midnight.
- Memory: the days since the last `release` before now, and at least two.
- Safe to ask from several threads; asking for a day that was prepared never waits.
"""

from __future__ import annotations

from datetime import date
from threading import Lock

import numpy as np

from device_sims.config import FleetConfig
from device_sims.errors import PlantTimeError
from device_sims.plant.calendar import ordinal_at, span
from device_sims.plant.day import Day, compute
from device_sims.plant.layout import Layout, layout
from device_sims.plant.noise import Floats
from protocols.timebase import US

_KEPT_DAYS = 2


class Moment:
    """The plant at one time.

    Attributes
    ----------
    at_us
        Plant time [µs UTC].
    """

    __slots__ = ("_cell", "_day", "_hours", "at_us")

    def __init__(self, at_us: int, day: Day, cell: int, hours: float) -> None:
        self.at_us = at_us
        self._day = day
        self._cell = cell
        self._hours = hours

    def total(self, column: int) -> float:
        """Total of a series since the plant's start [unit of the series]."""
        total: float = self._day.totals.item(self._cell, column)
        rate: float = self._day.rates.item(self._cell, column)
        return total + rate * self._hours

    def rate(self, column: int) -> float:
        """Rate of a series [unit of the series per h]."""
        rate: float = self._day.rates.item(self._cell, column)
        return rate

    def running(self, column: int) -> bool:
        """Whether a machine runs."""
        state: bool = self._day.running.item(self._cell, column)
        return state

    def totals(self) -> Floats:
        """Totals of all series [unit of the series]."""
        day = self._day
        return np.asarray(day.totals[self._cell] + day.rates[self._cell] * self._hours)


class Plant:
    """A simulated plant.

    Parameters
    ----------
    config
        The fleet.
    first_day
        Plant day at whose midnight all totals are 0; before it the plant stands still.
    """

    def __init__(self, config: FleetConfig, first_day: date) -> None:
        self.config = config
        self.layout: Layout = layout(config)
        self.start_us = span(config.plant.timezone, first_day.toordinal()).start_us
        self._grid_us = config.plant.grid_s * US
        self._lock = Lock()
        self._days: dict[int, Day] = {}
        self._next = first_day.toordinal()
        self._totals: Floats = np.zeros(len(self.layout.series))
        self._last: Day = self._compute_next()

    def at(self, at_us: int) -> Moment:
        """The plant at a time [µs UTC]; a time before its start counts as its start.

        Raises
        ------
        PlantTimeError
            If the time's day was released.
        """
        at_us = max(at_us, self.start_us)
        day = self._last
        if not day.span.start_us <= at_us < day.span.end_us:
            day = self._last = self._day(at_us)
        cell, rest_us = divmod(at_us - day.span.start_us, self._grid_us)
        return Moment(at_us, day, cell, rest_us / (3600 * US))

    def prepare(self, until_us: int) -> None:
        """Compute all days up to the one that holds a time, so that `at` need not."""
        with self._lock:
            self._extend(until_us)

    def release(self, before_us: int) -> None:
        """Forget the days that ended before a time, but for the newest two."""
        with self._lock:
            for ordinal in sorted(self._days)[:-_KEPT_DAYS]:
                if self._days[ordinal].span.end_us <= before_us:
                    del self._days[ordinal]

    def _day(self, at_us: int) -> Day:
        ordinal = ordinal_at(self.config.plant.timezone, at_us)
        # Without the lock first: a day that is there is served while another thread computes the next.
        day = self._days.get(ordinal)
        if day is None:
            with self._lock:
                self._extend(at_us)
                day = self._days.get(ordinal)
                first = min(self._days)
        if day is None:
            wanted = date.fromordinal(ordinal)
            raise PlantTimeError(f"plant day {wanted} was released; allowed: from {date.fromordinal(first)} on")
        return day

    def _extend(self, until_us: int) -> None:
        while span(self.config.plant.timezone, self._next - 1).end_us <= until_us:
            self._compute_next()

    def _compute_next(self) -> Day:
        day = compute(self.config, self.layout, self.config.plant.seed, self._next, self._totals)
        self._days[self._next] = day
        self._totals = day.totals[-1].copy()
        self._next += 1
        return day
