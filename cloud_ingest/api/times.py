"""Times in requests and answers: ISO 8601 with an offset; inside, µs UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, WithJsonSchema

from cloud_ingest.api.errors import ParameterError
from cloud_ingest.store.times import EARLIEST_US, LATEST_US, to_datetime, to_us

_ALLOWED = "ISO 8601 with an offset, such as 2022-06-15T00:00:00+08:00 or 2022-06-14T16:00:00Z"


def parse_instant(value: Any) -> int:
    """µs UTC of an ISO 8601 text with an offset.

    Raises
    ------
    ValueError
        Saying what is allowed.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        at = datetime.fromisoformat(str(value))
        if at.tzinfo is not None and EARLIEST_US <= (at_us := to_us(at)) <= LATEST_US:
            return at_us
    except (ValueError, OverflowError):
        at = None
    if isinstance(value, str) and " " in value:
        raise ValueError(f"{_ALLOWED}; in a URL the + of an offset is written %2B")
    if at is not None:
        why = "is outside the years 2000 to 9999" if at.tzinfo is not None else "has no offset"
        raise ValueError(f"{_ALLOWED}; this one {why}")
    raise ValueError(_ALLOWED)


Instant = Annotated[
    int,
    BeforeValidator(parse_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "description": _ALLOWED}),
]
"""A query parameter that is a time [µs UTC]."""


def iso(at_us: int, zone: ZoneInfo | None = None) -> str:
    """ISO 8601 with the offset of a zone, or of UTC."""
    at = to_datetime(at_us)
    return (at if zone is None else at.astimezone(zone)).isoformat()


def iso_column(times_us: NDArray[np.int64]) -> list[str]:
    """Many times at once, in UTC."""
    texts: list[str] = np.datetime_as_string(times_us.astype("datetime64[us]")).tolist()
    return [f"{text}+00:00" for text in texts]


def check_range(from_us: int | None, to_us: int | None) -> None:
    """Refuse a range that ends before it begins.

    Raises
    ------
    ParameterError
        Naming ``to``.
    """
    if from_us is not None and to_us is not None and to_us <= from_us:
        raise ParameterError("to", iso(to_us), f"later than `from`, {iso(from_us)}")
