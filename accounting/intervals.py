"""Edges of base intervals, hours and days in a plant's time zone, and sums of shorter intervals to longer.

The base interval is 15 minutes, on the UTC grid; with the offsets of today's time zones it is a quarter of
the local clock too. An hour begins where the local clock shows a full hour, a day where a new local date
begins: a day on which daylight saving begins or ends has 23 or 25 hours. Edges are int64 [µs UTC]; every
edge of a longer interval is an edge of a shorter one, so sums are exact.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from accounting.errors import IntervalError

Int64s = npt.NDArray[np.int64]
Level = Literal["base", "hour", "day"]
LEVELS: tuple[Level, ...] = get_args(Level)

BASE_US = 15 * 60 * 1_000_000
"""Length of a base interval [µs]."""
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US
_MARGIN_US = 2 * _DAY_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_US = -2_000_000_000_000_000
_LATEST_US = 200_000_000_000_000_000


def edges(level: Level, from_us: int, until_us: int, timezone: str) -> Int64s:
    """Edges of the consecutive intervals that together hold [from_us, until_us).

    Parameters
    ----------
    level
        "base", "hour" or "day".
    from_us, until_us
        What is to be held [µs UTC], the second after the first.
    timezone
        IANA name.

    Returns
    -------
    numpy.ndarray
        Ascending; the first at or before `from_us`, the last at or after `until_us` [µs UTC].

    Raises
    ------
    IntervalError
        If the span is empty or absurd, the level or time zone unknown, or the zone's offset no multiple of
        15 minutes.
    """
    if level not in LEVELS:
        raise IntervalError(f"level {level!r} is unknown; known: {', '.join(LEVELS)}")
    if not _EARLIEST_US <= from_us < until_us <= _LATEST_US:
        raise IntervalError(f"span [{from_us}, {until_us}) is not allowed; allowed: not empty, between 1906 and 8307")
    if level == "base":
        return np.arange(_floor(from_us, BASE_US), _ceiling(until_us, BASE_US) + 1, BASE_US, dtype=np.int64)
    # A day or an hour that holds the ends begins and ends within the margin.
    grid = np.arange(
        _floor(from_us, BASE_US) - _MARGIN_US, _ceiling(until_us, BASE_US) + _MARGIN_US, BASE_US, dtype=np.int64
    )
    local = grid + offsets(grid, timezone)
    if level == "hour":
        found = grid[local % _HOUR_US == 0]
    else:
        days = local // _DAY_US
        found = grid[1:][days[1:] != days[:-1]]
    first = int(np.searchsorted(found, from_us, side="right")) - 1
    last = int(np.searchsorted(found, until_us, side="left"))
    return np.array(found[first : last + 1])


def offsets(times_us: Int64s, timezone: str) -> Int64s:
    """Offset of local time from UTC at each time [µs]; times are multiples of the base interval.

    Raises
    ------
    IntervalError
        If the time zone is unknown, or an offset is no multiple of 15 minutes.
    """
    found = zone(timezone)
    result = np.empty(len(times_us), np.int64)
    days, where = np.unique(times_us // _DAY_US, return_inverse=True)
    table = np.array([_offsets_of_day(found, int(day)) for day in days], dtype=np.int64).reshape(len(days), -1)
    result[:] = table[where, (times_us % _DAY_US) // BASE_US]
    return result


def years(edges_us: Int64s, timezone: str) -> Int64s:
    """Local calendar year in which each interval begins."""
    starts = edges_us[:-1]
    local = starts + offsets(starts, timezone)
    return local.astype("datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970


def groups(shorter_us: Int64s, longer_us: Int64s) -> Int64s:
    """Where each longer interval begins among the shorter ones, and where the last one ends.

    Raises
    ------
    IntervalError
        If an edge of the longer intervals is none of the shorter ones.
    """
    at = np.searchsorted(shorter_us, longer_us)
    if len(longer_us) < 2 or at[-1] >= len(shorter_us) or not np.array_equal(shorter_us[at], longer_us):
        raise IntervalError(
            f"longer intervals {_span(longer_us)} do not begin and end on edges of the shorter ones {_span(shorter_us)}"
        )
    return at.astype(np.int64)


def sums(amounts: Int64s, shorter_us: Int64s, longer_us: Int64s) -> Int64s:
    """Exact sums of shorter intervals over longer ones."""
    at = groups(shorter_us, longer_us)
    return np.add.reduceat(amounts[: at[-1]], at[:-1])


def _span(edges_us: Int64s) -> str:
    return f"[{edges_us[0]} … {edges_us[-1]}]" if len(edges_us) else "[]"


def _floor(time_us: int, grid_us: int) -> int:
    return time_us // grid_us * grid_us


def _ceiling(time_us: int, grid_us: int) -> int:
    return -(-time_us // grid_us) * grid_us


def zone(name: str) -> ZoneInfo:
    """Look a time zone up.

    Raises
    ------
    IntervalError
        If there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError) as error:
        raise IntervalError(f"time zone {name!r} is unknown; allowed: IANA names such as Asia/Shanghai") from error


@lru_cache(maxsize=4096)
def _offsets_of_day(place: ZoneInfo, day: int) -> tuple[int, ...]:
    """Offsets at the base edges of a UTC day; looked up one by one only where the offset changes."""
    quarters = _DAY_US // BASE_US
    first, last = _offset(place, day * _DAY_US), _offset(place, (day + 1) * _DAY_US)
    if first == last:
        return (first,) * quarters
    return tuple(_offset(place, day * _DAY_US + quarter * BASE_US) for quarter in range(quarters))


def _offset(place: ZoneInfo, time_us: int) -> int:
    local = (_EPOCH + timedelta(microseconds=time_us)).astimezone(place)
    offset = local.utcoffset()
    assert offset is not None
    offset_us = offset // timedelta(microseconds=1)
    if offset_us % BASE_US:
        raise IntervalError(
            f"time zone {place.key!r} is {offset} from UTC at {local.isoformat()}; allowed: multiples of 15 minutes"
        )
    return offset_us
