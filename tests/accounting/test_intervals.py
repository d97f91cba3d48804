from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import cast
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import intervals
from accounting.errors import IntervalError
from accounting.intervals import BASE_US, Level

HOUR = 3_600_000_000
DAY = 24 * HOUR
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us(year: int, month: int, day: int, hour: int = 0, minute: int = 0, zone: str = "UTC") -> int:
    local = datetime(year, month, day, hour, minute, tzinfo=ZoneInfo(zone))
    return (local - EPOCH) // timedelta(microseconds=1)


def hours(edges: npt.NDArray[np.int64]) -> list[float]:
    return [length / HOUR for length in np.diff(edges).tolist()]


def test_a_day_in_shanghai_has_24_hours() -> None:
    first = us(2022, 6, 14, zone="Asia/Shanghai")
    days = intervals.edges("day", first, first + 2 * DAY, "Asia/Shanghai")
    assert days.tolist() == [first, first + DAY, first + 2 * DAY]
    assert len(intervals.edges("hour", first, first + DAY, "Asia/Shanghai")) == 25
    assert len(intervals.edges("base", first, first + DAY, "Asia/Shanghai")) == 97


@pytest.mark.parametrize(("month", "day", "length"), [(3, 27, 23), (10, 30, 25), (6, 14, 24)])
def test_days_in_berlin_are_23_24_or_25_hours_long(month: int, day: int, length: int) -> None:
    first = us(2022, month, day, zone="Europe/Berlin")
    days = intervals.edges("day", first, first + 1, "Europe/Berlin")
    assert (days[0], hours(days)) == (first, [length])
    of_hours = intervals.edges("hour", int(days[0]), int(days[1]), "Europe/Berlin")
    assert hours(of_hours) == [1.0] * length
    assert (of_hours[0], of_hours[-1]) == (days[0], days[1])


def test_an_hour_begins_where_the_local_clock_shows_one() -> None:
    at = us(2022, 6, 14, 12, 10, "Asia/Kolkata")
    found = intervals.edges("hour", at, at + 1, "Asia/Kolkata")
    assert found.tolist() == [us(2022, 6, 14, 12, 0, "Asia/Kolkata"), us(2022, 6, 14, 13, 0, "Asia/Kolkata")]
    assert found[0] % HOUR == HOUR // 2


def test_a_day_without_midnight_begins_with_its_first_instant() -> None:
    # Beirut springs forward at 00:00 to 01:00.
    at = us(2022, 3, 27, 12, zone="Asia/Beirut")
    day = intervals.edges("day", at, at + 1, "Asia/Beirut")
    assert hours(day) == [23.0]
    assert day[0] == us(2022, 3, 27, 1, zone="Asia/Beirut")


def test_an_instant_on_an_edge_begins_its_interval() -> None:
    first = us(2022, 6, 14, zone="Asia/Shanghai")
    for level in intervals.LEVELS:
        found = intervals.edges(level, first, first + 1, "Asia/Shanghai")
        assert found[0] == first
        assert len(found) == 2


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(["Asia/Shanghai", "Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "Asia/Kathmandu"]),
    st.integers(us(1990, 1, 1), us(2035, 1, 1)),
    st.integers(1, 40 * DAY),
)
def test_longer_intervals_are_made_of_shorter_ones_and_hold_the_span(zone: str, first: int, length: int) -> None:
    base, hour, day = (intervals.edges(level, first, first + length, zone) for level in intervals.LEVELS)
    for edges in (base, hour, day):
        assert edges[0] <= first < edges[1]
        assert edges[-2] < first + length <= edges[-1]
        assert (np.diff(edges) > 0).all()
    whole_base = intervals.edges("base", int(day[0]), int(day[-1]), zone)
    whole_hours = intervals.edges("hour", int(day[0]), int(day[-1]), zone)
    assert set(whole_hours.tolist()) <= set(whole_base.tolist())
    assert set(day.tolist()) <= set(whole_hours.tolist())
    local = [datetime.fromtimestamp(edge / 1e6, ZoneInfo(zone)) for edge in day.tolist()]
    assert len({moment.date() for moment in local}) == len(local)
    assert (np.diff(base) == BASE_US).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(us(2020, 1, 1), us(2025, 1, 1)), st.integers(1, 10 * DAY), st.integers(1, 10 * DAY))
def test_edges_do_not_depend_on_the_span_asked_for(first: int, one: int, other: int) -> None:
    short, long = sorted((one, other))
    for level in intervals.LEVELS:
        few = intervals.edges(level, first, first + short, "Europe/Berlin").tolist()
        many = intervals.edges(level, first, first + long, "Europe/Berlin").tolist()
        assert many[: len(few)] == few


def test_sums_over_longer_intervals_are_exact() -> None:
    first = us(2022, 10, 29, zone="Europe/Berlin")
    day = intervals.edges("day", first, first + 3 * DAY, "Europe/Berlin")
    base = intervals.edges("base", int(day[0]), int(day[-1]), "Europe/Berlin")
    amounts = np.arange(len(base) - 1, dtype=np.int64) + 2**55
    sums = intervals.sums(amounts, base, day)
    assert sums.sum() == amounts.sum()
    assert sums[1] == amounts[96 : 96 + 100].sum()


def test_longer_intervals_may_cover_a_part() -> None:
    base = np.arange(0, 10 * BASE_US + 1, BASE_US)
    assert intervals.sums(np.arange(10), base, base[[2, 4, 7]]).tolist() == [2 + 3, 4 + 5 + 6]


@pytest.mark.parametrize("longer", [[1, 4 * BASE_US], [0, 99 * BASE_US], [0]])
def test_edges_that_do_not_fit_are_refused(longer: list[int]) -> None:
    base = np.arange(0, 10 * BASE_US + 1, BASE_US)
    with pytest.raises(IntervalError, match="do not begin and end on edges of the shorter ones"):
        intervals.sums(np.arange(10), base, np.array(longer, np.int64))


def test_the_year_is_the_local_one() -> None:
    new_year = us(2023, 1, 1, zone="Asia/Shanghai")
    edges = np.array([new_year - HOUR, new_year, new_year + HOUR])
    assert intervals.years(edges, "Asia/Shanghai").tolist() == [2022, 2023]
    assert intervals.years(edges, "UTC").tolist() == [2022, 2022]


def test_absurd_spans_and_names_are_refused() -> None:
    with pytest.raises(IntervalError, match="time zone 'Mars/Base' is unknown"):
        intervals.edges("hour", 0, 1, "Mars/Base")
    with pytest.raises(IntervalError, match=r"span \[5, 5\) is not allowed"):
        intervals.edges("hour", 5, 5, "UTC")
    with pytest.raises(IntervalError, match="span"):
        intervals.edges("day", 0, 2**62, "UTC")
    with pytest.raises(IntervalError, match="level 'week' is unknown; known: base, hour, day"):
        intervals.edges(cast("Level", "week"), 0, 1, "UTC")
    with pytest.raises(IntervalError, match=r"'Africa/Monrovia' is .* from UTC .*; allowed: multiples of 15 minutes"):
        intervals.edges("hour", us(1971, 6, 1), us(1971, 6, 2), "Africa/Monrovia")
