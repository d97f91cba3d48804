"""Times of the product (µs since 1970, UTC) and those of the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01, from which PostgreSQL counts in its binary form [µs UTC]."""
EARLIEST_US = POSTGRES_EPOCH_US
"""Earlier times of measurement are absurd: no gateway ran then."""
LATEST_US = 253_402_300_799_000_000
"""End of the year 9999, the last that `datetime` can say [µs UTC]."""


def to_datetime(at_us: int) -> datetime:
    """µs UTC to an aware datetime, exactly."""
    return EPOCH + timedelta(microseconds=at_us)


def to_us(at: datetime) -> int:
    """Aware datetime to µs UTC, exactly."""
    return (at - EPOCH) // timedelta(microseconds=1)
