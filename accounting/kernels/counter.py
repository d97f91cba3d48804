"""Use of a counter in consecutive intervals, exact at their edges, in whole fixed-point units.

Formula
-------
Readings (t_k, v_k) become integers R_k = rint(v_k / resolution). Two neighbouring accepted readings bound a
span k with the difference D_k >= 0. Inside the span use is taken as even:
G_k(e) = round_half_up(D_k * (e - t_k) / (t_k+1 - t_k)), an exact integer quotient of the two readings and
the edge alone. The use of an interval [e0, e1) is the difference of cumulative use at its edges:
G_j(e1) - G_i(e0) + sum of D_i..D_j-1. All integers, so it telescopes.

Laws
----
- Uses of adjacent intervals add up exactly to the use of the whole; any finer or coarser edges agree.
- Any split or sharding of the axis gives the same bits, as long as each part is given the readings of
  its neighbourhood (below).
- Only bracketing readings and the edges count; how readings arrived does not.

What a span is worth
--------------------
======== ================================================ =========== =========== ==============
span     condition                                        use         covered_us  flag
======== ================================================ =========== =========== ==============
even     plausible, not longer than the gap limit         D, by time  its length  (ROLLOVER)
gap      plausible, longer than the gap limit             D, by time  0           GAP, ESTIMATED
                                                          (all of it
                                                          `estimated`)
reset    falls, and no rollover explains it               unknown     0           RESET
jump     rises faster than the maximum rate, or the       unknown     0           JUMP
         silence was long enough for the counter to
         have started again more than once
======== ================================================ =========== =========== ==============

After a reset the new value is *not* taken as use since the reset: the counter may have been exchanged, or
set to any value. Nothing is invented; the span is not covered. An interval that touches no span of known
difference has no use (`has_use` is False), which is never the same as a use of 0.

Plausible
---------
A difference D = R_b - R_a over dt, with the modulus added when it falls (a rollover), is plausible if

- with a maximum rate: D <= max_rate * dt + step + resolution, a rollover counts at most half the modulus,
  and D + modulus would not be plausible too;
- without one: a rollover counts at most a tenth of the modulus, a rise at most half of it; without
  a modulus any rise is plausible.

A fall without a modulus never is.

Transients
----------
A run of readings is dropped before spans are built when it stands out against both sides: for an
implausible step s -> s+1,

- forward: the first j > s+1 with s -> j plausible; the run s+1..j-1 is dropped, or else
- backward: the last i < s with i -> s+1 plausible; the run i+1..s is dropped,

if t_j - t_i <= gap limit, the run has at most `LONGEST_RUN` readings, and the step at the run's other end
is implausible too or larger than all that was counted within the run. So a zero, a run of zeros or a spike
disappears, while a counter that starts again and counts on is a reset.

Neighbourhood
-------------
An interval depends on the accepted readings that bracket it and on those between; whether one of these is
accepted depends on readings no further than one gap limit outside the bracket. The bits of a result are
therefore final if every valid reading in [`CounterUse.needs_from_us`, `CounterUse.needs_to_us`] was given:
one gap limit before the last accepted reading at or before the first edge, to one gap limit after the first
accepted one at or after the last edge. Where there is no such reading the bound is `NO_TIME_BEFORE` or
`NO_TIME_AFTER`: further readings on that side are needed, if there are any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import numpy.typing as npt

from accounting.errors import KernelInputError
from accounting.kernels._jit import compiled

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

DEFAULT_RESOLUTION = 1e-6
"""Fixed-point unit of uses, in the counter's unit."""
LARGEST = 2**53
"""Largest value and modulus, in resolution units: float64 holds every integer up to it."""
LONGEST_RUN = 60
"""Most readings that one transient may span."""
NO_TIME_BEFORE = -(2**62)
NO_TIME_AFTER = 2**62
_LARGEST_TIME = 2**60
_LARGEST_USE = 2**61
_LARGEST_PRODUCT = 2**62
_US_PER_HOUR = 3_600_000_000


class Flag(IntFlag):
    """What happened in an interval."""

    ROLLOVER = 1
    """The counter passed its modulus."""
    RESET = 2
    """The counter fell without a rollover: cleared, exchanged or set."""
    TRANSIENT = 4
    """A reading in the interval was dropped: it stands out against both its sides."""
    GAP = 8
    """Longer than the gap limit without an accepted reading."""
    ESTIMATED = 16
    """Some of the use was split by time over a gap."""
    PARTIAL_START = 32
    """The interval begins before the first accepted reading."""
    PARTIAL_END = 64
    """The interval ends after the last accepted reading."""
    JUMP = 128
    """The counter rose faster than is plausible, or may have started again unseen."""


_ROLLOVER = int(Flag.ROLLOVER)
_RESET = int(Flag.RESET)
_GAP = int(Flag.GAP)
_ESTIMATED = int(Flag.ESTIMATED)
_JUMP = int(Flag.JUMP)


@dataclass(frozen=True, slots=True)
class CounterUse:
    """Use per interval.

    Attributes
    ----------
    use
        Known use [resolution units]; 0 where `has_use` is False.
    has_use
        Whether anything is known of the interval.
    covered_us
        Time within spans of known difference not longer than the gap limit [µs].
    estimated
        Part of `use` that comes from splitting the difference over a gap by time [resolution units].
    flags
        Bits of `Flag`.
    needs_from_us, needs_to_us
        The result is final if all valid readings from here to there were given [µs UTC].
    """

    use: Int64s
    has_use: npt.NDArray[np.bool_]
    covered_us: Int64s
    estimated: Int64s
    flags: npt.NDArray[np.uint8]
    needs_from_us: int
    needs_to_us: int


def counter_use(
    times_us: Int64s,
    values: Float64s,
    edges_us: Int64s,
    *,
    resolution: float = DEFAULT_RESOLUTION,
    gap_limit_us: int,
    modulus: float | None = None,
    max_rate_per_h: float | None = None,
    step: float = 0.0,
) -> CounterUse:
    """Use of one counter in each interval [edges_us[i], edges_us[i+1]).

    Parameters
    ----------
    times_us
        Times of the valid readings, strictly ascending [µs UTC].
    values
        Readings [unit]; finite: leave out those of bad quality.
    edges_us
        Edges of consecutive intervals, strictly ascending, at least two [µs UTC].
    resolution
        Fixed-point unit of the result [unit]; values and modulus may be up to 2**53 of it.
    gap_limit_us
        Longest distance of two readings over which use is taken as known [µs].
    modulus
        Value at which the counter starts again from 0 [unit]; a whole number of `resolution`.
    max_rate_per_h
        Plausible maximum use per hour [unit/h].
    step
        Smallest step of the counter's register [unit]; a rise by one step is never too fast.

    Raises
    ------
    KernelInputError
        Naming the array or parameter, the first offending position and what is allowed.
    """
    times = np.ascontiguousarray(times_us, dtype=np.int64)
    edges = np.ascontiguousarray(edges_us, dtype=np.int64)
    floats = np.ascontiguousarray(values, dtype=np.float64)
    _check_parameters(times, floats, edges, resolution, gap_limit_us, modulus, max_rate_per_h, step)
    modulus_units = 0 if modulus is None else _modulus_units(modulus, resolution)
    rate = -1.0 if max_rate_per_h is None else max_rate_per_h / resolution / _US_PER_HOUR
    slack = step / resolution + 1.0

    count, m = len(times), len(edges) - 1
    units = np.empty(count, np.int64)
    _raise_first_offence(_to_units(times, floats, resolution, units), times, floats, resolution)
    kept_times, kept_units, dropped = times, units, times[:0]
    if _implausible_steps(times, units, modulus_units, rate, slack) > 0:
        keep = np.ones(count, np.bool_)
        _drop_transients(times, units, modulus_units, rate, slack, gap_limit_us, keep)
        kept_times, kept_units, dropped = times[keep], units[keep], times[~keep]

    use = np.zeros(m, np.int64)
    has_use = np.zeros(m, np.bool_)
    covered = np.zeros(m, np.int64)
    estimated = np.zeros(m, np.int64)
    flags = np.zeros(m, np.uint8)
    fits = _walk(
        kept_times, kept_units, edges, modulus_units, rate, slack, gap_limit_us, use, has_use, covered, estimated, flags
    )
    if not fits:
        raise KernelInputError(
            f"the use of an interval exceeds {_LARGEST_USE} units of {resolution:g}; allowed: give a coarser resolution"
        )
    _flag_ends(kept_times, dropped, edges, flags)
    before = int(np.searchsorted(kept_times, edges[0], side="right")) - 1
    after = int(np.searchsorted(kept_times, edges[-1], side="left"))
    return CounterUse(
        use,
        has_use,
        covered,
        estimated,
        flags,
        int(kept_times[before]) - gap_limit_us if before >= 0 else NO_TIME_BEFORE,
        int(kept_times[after]) + gap_limit_us if after < len(kept_times) else NO_TIME_AFTER,
    )


def _check_parameters(
    times: Int64s,
    values: Float64s,
    edges: Int64s,
    resolution: float,
    gap_limit_us: int,
    modulus: float | None,
    max_rate_per_h: float | None,
    step: float,
) -> None:
    if times.ndim != 1 or values.shape != times.shape:
        raise KernelInputError(f"times_us has shape {times.shape}, values {values.shape}; allowed: one length, 1-D")
    if edges.ndim != 1 or len(edges) < 2:
        raise KernelInputError(f"edges_us has shape {edges.shape}; allowed: 1-D, at least 2 edges")
    if edges[0] < -_LARGEST_TIME or edges[-1] > _LARGEST_TIME or bool((edges[1:] <= edges[:-1]).any()):
        raise KernelInputError("edges_us are not strictly ascending times; allowed: strictly ascending, within 2**60")
    _positive("resolution", resolution)
    if not 0 < gap_limit_us <= _LARGEST_TIME:
        raise KernelInputError(f"gap_limit_us {gap_limit_us!r} is not allowed; allowed: above 0, up to 2**60")
    if modulus is not None:
        _positive("modulus", modulus)
    if max_rate_per_h is not None:
        _positive("max_rate_per_h", max_rate_per_h)
    if not (math.isfinite(step) and step >= 0):
        raise KernelInputError(f"step {step!r} is not allowed; allowed: 0 or above")


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise KernelInputError(f"{name} {value!r} is not allowed; allowed: a finite number above 0")


def _modulus_units(modulus: float, resolution: float) -> int:
    units = round(modulus / resolution)
    if not 0 < units <= LARGEST or not math.isclose(units * resolution, modulus, rel_tol=1e-12):
        raise KernelInputError(
            f"modulus {modulus!r} is not allowed; allowed: whole multiples of the resolution {resolution:g} "
            f"up to {LARGEST * resolution:g}"
        )
    return units


def _raise_first_offence(at: int, times: Int64s, values: Float64s, resolution: float) -> None:
    if at < 0:
        return
    value = float(values[at])
    if not math.isfinite(value):
        raise KernelInputError(f"values[{at}] is {value!r}; allowed: finite values (leave invalid readings out)")
    if abs(value / resolution) > LARGEST:
        raise KernelInputError(
            f"values[{at}] is {value!r}; allowed: up to {LARGEST * resolution:g} at a resolution of {resolution:g}"
        )
    before = int(times[at - 1]) if at else None
    raise KernelInputError(
        f"times_us[{at}] is {int(times[at])} after {before}; allowed: strictly ascending times within 2**60"
    )


@compiled
def _to_units(times: Int64s, values: Float64s, resolution: float, units: Int64s) -> int:
    """Fill `units`; return the first position that breaks a condition, or -1."""
    for k in range(len(times)):
        quotient = values[k] / resolution
        # Written so that NaN fails too.
        if not abs(quotient) <= LARGEST:
            return k
        if not -_LARGEST_TIME <= times[k] <= _LARGEST_TIME or (k > 0 and times[k] <= times[k - 1]):
            return k
        units[k] = np.int64(np.rint(quotient))
    return -1


@compiled
def _difference(first: int, last: int, length_us: int, modulus: int, rate: float, slack: float) -> int:
    """Use from one reading to another, or -1 if it is not plausible."""
    use = last - first
    rolled = use < 0
    if rolled:
        if modulus == 0:
            return -1
        use += modulus
        if use < 0:
            return -1
    if rate >= 0.0:
        bound = rate * length_us + slack
        if use > bound:
            return -1
        if modulus > 0 and (use + modulus <= bound or (rolled and use > modulus // 2)):
            return -1
    elif modulus > 0 and use > (modulus // 10 if rolled else modulus // 2):
        return -1
    return use


@compiled
def _implausible_steps(times: Int64s, units: Int64s, modulus: int, rate: float, slack: float) -> int:
    count = 0
    for k in range(1, len(times)):
        if _difference(units[k - 1], units[k], times[k] - times[k - 1], modulus, rate, slack) < 0:
            count += 1
    return count


@compiled
def _drop_transients(
    times: Int64s,
    units: Int64s,
    modulus: int,
    rate: float,
    slack: float,
    gap_limit_us: int,
    keep: npt.NDArray[np.bool_],
) -> None:
    """Clear `keep` of readings that stand out against both their sides."""
    count = len(times)
    for s in range(count - 1):
        if _difference(units[s], units[s + 1], times[s + 1] - times[s], modulus, rate, slack) >= 0:
            continue
        found = False
        for j in range(s + 2, min(s + 2 + LONGEST_RUN, count)):
            if times[j] - times[s] > gap_limit_us:
                break
            if _difference(units[s], units[j], times[j] - times[s], modulus, rate, slack) < 0:
                continue
            back = _difference(units[j - 1], units[j], times[j] - times[j - 1], modulus, rate, slack)
            if back < 0 or back > units[j - 1] - units[s + 1]:
                keep[s + 1 : j] = False
                found = True
            break
        if found:
            continue
        for i in range(s - 1, max(s - 1 - LONGEST_RUN, -1), -1):
            if times[s + 1] - times[i] > gap_limit_us:
                break
            if _difference(units[i], units[s + 1], times[s + 1] - times[i], modulus, rate, slack) < 0:
                continue
            away = _difference(units[i], units[i + 1], times[i + 1] - times[i], modulus, rate, slack)
            if away < 0 or away > units[s] - units[i + 1]:
                keep[i + 1 : s + 1] = False
            break


@compiled
def _part(use: int, elapsed_us: int, length_us: int) -> int:
    """``round_half_up(use * elapsed / length)`` without overflow; 0 <= elapsed <= length."""
    whole = use // length_us * elapsed_us
    rest = use % length_us
    if elapsed_us == 0 or rest <= _LARGEST_PRODUCT // elapsed_us:
        product = rest * elapsed_us
        quotient = product // length_us
        remainder = product % length_us
    else:
        # Long multiplication, one bit of `rest` at a time, reduced by `length_us` as it goes.
        quotient = 0
        remainder = 0
        for bit in range(62, -1, -1):
            quotient *= 2
            remainder *= 2
            if (rest >> bit) & 1:
                remainder += elapsed_us
            if remainder >= length_us:
                remainder -= length_us
                quotient += 1
            if remainder >= length_us:
                remainder -= length_us
                quotient += 1
    if remainder >= length_us - remainder:
        quotient += 1
    return whole + quotient


@compiled
def _walk(
    times: Int64s,
    units: Int64s,
    edges: Int64s,
    modulus: int,
    rate: float,
    slack: float,
    gap_limit_us: int,
    use: Int64s,
    has_use: npt.NDArray[np.bool_],
    covered: Int64s,
    estimated: Int64s,
    flags: npt.NDArray[np.uint8],
) -> bool:
    """Hand each span's use to the intervals it touches; False if a sum grows too large."""
    m = len(edges) - 1
    count = len(times)
    interval = 0
    k = max(np.searchsorted(times, edges[0], side="right") - 1, 0)
    while k < count - 1 and times[k] < edges[m]:
        while edges[interval + 1] <= times[k]:
            interval += 1
        # Even spans that lie within one interval are most of the work.
        within_use = 0
        within_us = 0
        while k < count - 1 and times[k] >= edges[interval] and times[k + 1] <= edges[interval + 1]:
            length = times[k + 1] - times[k]
            rise = units[k + 1] - units[k]
            if rise < 0 or length > gap_limit_us or within_use > _LARGEST_USE:
                break
            if _difference(units[k], units[k + 1], length, modulus, rate, slack) < 0:
                break
            within_use += rise
            within_us += length
            k += 1
        if within_us > 0:
            use[interval] += within_use
            covered[interval] += within_us
            has_use[interval] = True
        if use[interval] > _LARGEST_USE:
            return False
        if k < count - 1:
            interval = _spread(
                times,
                units,
                edges,
                k,
                interval,
                modulus,
                rate,
                slack,
                gap_limit_us,
                use,
                has_use,
                covered,
                estimated,
                flags,
            )
            k += 1
    return True


@compiled
def _spread(
    times: Int64s,
    units: Int64s,
    edges: Int64s,
    k: int,
    interval: int,
    modulus: int,
    rate: float,
    slack: float,
    gap_limit_us: int,
    use: Int64s,
    has_use: npt.NDArray[np.bool_],
    covered: Int64s,
    estimated: Int64s,
    flags: npt.NDArray[np.uint8],
) -> int:
    """Hand one span, of any sort, to the intervals it touches; return the last interval touched."""
    start = times[k]
    end = times[k + 1]
    length = end - start
    difference = _difference(units[k], units[k + 1], length, modulus, rate, slack)
    falls = units[k + 1] < units[k]
    known = difference >= 0
    gap = known and length > gap_limit_us
    mark = (_ROLLOVER if known else _RESET) if falls else (0 if known else _JUMP)
    if gap:
        mark |= _GAP
    here = max(start, edges[0])
    given = _part(difference, here - start, length) if known and here > start else 0
    while here < end and here < edges[-1]:
        while edges[interval + 1] <= here:
            interval += 1
        until = min(end, edges[interval + 1])
        flags[interval] |= np.uint8(mark)
        if known:
            total = difference if until == end else _part(difference, until - start, length)
            use[interval] += total - given
            has_use[interval] = True
            if not gap:
                covered[interval] += until - here
            elif total > given:
                estimated[interval] += total - given
                flags[interval] |= np.uint8(_ESTIMATED)
            given = total
        here = until
    return interval


def _flag_ends(kept: Int64s, dropped: Int64s, edges: Int64s, flags: npt.NDArray[np.uint8]) -> None:
    """Mark intervals that reach beyond the accepted readings, and those where one was dropped."""
    starts, ends = edges[:-1], edges[1:]
    flags[starts < kept[0] if len(kept) else slice(None)] |= np.uint8(Flag.PARTIAL_START)
    flags[ends > kept[-1] if len(kept) else slice(None)] |= np.uint8(Flag.PARTIAL_END)
    inside = dropped[(dropped >= edges[0]) & (dropped < edges[-1])]
    flags[np.searchsorted(edges, inside, side="right") - 1] |= np.uint8(Flag.TRANSIENT)
