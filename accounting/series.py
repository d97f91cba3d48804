"""What is known of a use or an output in consecutive intervals, in whole millionths of its unit.

Invariants: amounts are integers and additive: the sum over meters, over processes of the tree and over
intervals is the same whichever is done first. `known` says whether an amount may be shown as a figure.

Combining
---------
- A sum of several meters is known in an interval where all of them are; its covered time is the least of
  theirs (0 where one is unknown): use is known no longer than its least known part. Estimated parts add up.
- A longer interval is known if at least one of its parts is; covered times and estimated parts add up.
  What is missing shows in the coverage. It is never filled in, and never a 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from accounting import intervals
from accounting.errors import SeriesError
from accounting.kernels.counter import CounterUse

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

MICRO = 1e-6
"""The fixed-point unit of amounts, in the canonical unit of what is counted."""
PER_UNIT = 1_000_000
_LARGEST = 2**62


def resolution_for(unit_factor: float) -> float:
    """Resolution for a counter [its unit] that is about a millionth of the canonical unit.

    A power of ten, 1e-6 for a counter in canonical units and 1e-3 for one in thousandths of it, so that
    counters in small units keep their range (values up to 2**53 of it).

    Parameters
    ----------
    unit_factor
        Canonical units in one unit of the counter.
    """
    return float(f"1e{round(-6 - math.log10(unit_factor))}")


@dataclass(frozen=True, slots=True)
class Series:
    """Amounts of one thing in consecutive intervals.

    Attributes
    ----------
    edges_us
        Edges of the intervals [µs UTC].
    amount
        What is known to have been used or made [1e-6 unit].
    known
        Whether the amount may be shown.
    covered_us
        Time for which it is known and not estimated [µs].
    estimated
        Part that was split by time over gaps, of either sign [1e-6 unit].
    flags
        Bits of `accounting.kernels.counter.Flag`.
    """

    edges_us: Int64s
    amount: Int64s
    known: npt.NDArray[np.bool_]
    covered_us: Int64s
    estimated: Int64s
    flags: npt.NDArray[np.uint8]

    @classmethod
    def of_counter(cls, use: CounterUse, edges_us: Int64s, *, resolution: float, unit_factor: float = 1.0) -> Self:
        """From a counter's use.

        Parameters
        ----------
        use
            Result of `accounting.kernels.counter.counter_use` on these edges and at this resolution.
        unit_factor
            Canonical units in one unit of the counter.
        """
        weight = unit_factor * (resolution / MICRO)
        return cls(
            edges_us,
            weighted(use.use, weight),
            use.has_use,
            use.covered_us,
            np.abs(weighted(use.estimated, weight)),
            use.flags,
        )

    @classmethod
    def unknown(cls, edges_us: Int64s) -> Self:
        """Of a point of which nothing is known."""
        m = len(edges_us) - 1
        zeros = np.zeros(m, np.int64)
        return cls(edges_us, zeros, np.zeros(m, np.bool_), zeros, zeros, np.zeros(m, np.uint8))

    def times(self, share: float) -> Series:
        """A share of it; each interval is rounded to the fixed-point unit, 1 and -1 are exact."""
        if share == 1.0:
            return self
        return Series(
            self.edges_us,
            weighted(self.amount, share),
            self.known,
            self.covered_us,
            np.abs(weighted(self.estimated, share)),
            self.flags,
        )

    def longer(self, edges_us: Int64s) -> Series:
        """Sums over longer intervals.

        Raises
        ------
        IntervalError
            If an edge is none of this series' edges.
        """
        at = intervals.groups(self.edges_us, edges_us)
        starts, end = at[:-1], int(at[-1])
        return Series(
            edges_us,
            np.add.reduceat(self.amount[:end], starts),
            np.logical_or.reduceat(self.known[:end], starts),
            np.add.reduceat(self.covered_us[:end], starts),
            np.add.reduceat(self.estimated[:end], starts),
            np.bitwise_or.reduceat(self.flags[:end], starts),
        )

    @property
    def values(self) -> Float64s:
        """Amounts as figures [unit]; NaN where there is none."""
        return np.where(self.known, self.amount / PER_UNIT, np.nan)

    @property
    def coverage(self) -> Float64s:
        """Covered share of each interval, 0 to 1."""
        return self.covered_us / np.diff(self.edges_us)

    @property
    def estimated_share(self) -> Float64s:
        """Estimated share of each amount, 0 to 1 (1 also where more was estimated); NaN where nothing is known."""
        amount = np.abs(self.amount)
        share = np.where(self.estimated > 0, 1.0, 0.0)
        np.divide(self.estimated, amount, out=share, where=amount > self.estimated)
        return np.where(self.known, share, np.nan)


def total(parts: Sequence[Series]) -> Series:
    """Sum of several series over the same intervals.

    Raises
    ------
    SeriesError
        If there is none, or their intervals differ.
    """
    if not parts:
        raise SeriesError("a sum of no series; allowed: at least one")
    first = parts[0]
    for part in parts[1:]:
        if part.edges_us is not first.edges_us and not np.array_equal(part.edges_us, first.edges_us):
            raise SeriesError("series over different intervals cannot be added")
    amount, known = first.amount, first.known
    covered, estimated, flags = first.covered_us, first.estimated, first.flags
    for part in parts[1:]:
        amount = amount + part.amount
        known = known & part.known
        covered = np.minimum(covered, part.covered_us)
        estimated = estimated + part.estimated
        flags = flags | part.flags
    return Series(first.edges_us, amount, known, covered, estimated, flags)


def weighted(amounts: Int64s, weights: float | Float64s) -> Int64s:
    """Amounts times weights, each rounded to a whole number; 1 and -1 are exact.

    Raises
    ------
    SeriesError
        If a product exceeds 2**62.
    """
    if isinstance(weights, float) and abs(weights) == 1.0:
        return amounts if weights > 0 else -amounts
    products: Float64s = np.rint(amounts * weights)
    if len(products) and not float(np.abs(products).max()) < _LARGEST:
        raise SeriesError(f"an amount of {np.abs(products).max():g} fixed-point units; allowed: up to {_LARGEST}")
    return products.astype(np.int64)
