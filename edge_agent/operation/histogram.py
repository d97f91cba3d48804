"""Counts of durations in fixed classes, for Prometheus and for quantiles."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the classes [s]; beyond the last there is one more."""


class Histogram:
    """Durations by class; filled by one thread, read by any."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0
        self.last_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count a duration [s]."""
        self._counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self.total_s += duration_s
        self.last_s = duration_s

    def cumulative(self) -> list[int]:
        """How many were at most as long as each bound; the last entry counts all."""
        return list(accumulate(self._counts))
