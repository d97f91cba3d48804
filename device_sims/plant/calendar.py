"""Plant days: from one local midnight to the next, cut into cells of constant rates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from device_sims.errors import FleetError
from protocols.timebase import US

QUARTER_US = 900 * US
"""Totals are logged at multiples of this."""


@dataclass(frozen=True, slots=True)
class Span:
    """Times of a plant day.

    Attributes
    ----------
    ordinal
        Proleptic ordinal of the day.
    start_us, end_us
        Its midnights [µs UTC].
    """

    ordinal: int
    start_us: int
    end_us: int

    @property
    def hours(self) -> float:
        """Length [h]; not 24 where the clocks change."""
        return (self.end_us - self.start_us) / (3600 * US)


@lru_cache(maxsize=64)
def span(timezone: str, ordinal: int) -> Span:
    """Times of the plant day with this ordinal."""
    zone = ZoneInfo(timezone)
    day = date.fromordinal(ordinal)
    start, end = (_midnight(zone, d) for d in (day, day + timedelta(days=1)))
    if start % QUARTER_US or end % QUARTER_US:
        raise FleetError(
            f"plant day {day} in {timezone} does not begin on a quarter of an hour UTC; allowed: from 1972 on"
        )
    return Span(ordinal, start, end)


def ordinal_at(timezone: str, at_us: int) -> int:
    """Ordinal of the plant day that holds a time [µs UTC]."""
    return datetime.fromtimestamp(at_us // US, ZoneInfo(timezone)).toordinal()


def _midnight(zone: ZoneInfo, day: date) -> int:
    return round(datetime.combine(day, time(), zone).astimezone(UTC).timestamp()) * US
