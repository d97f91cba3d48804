"""Readings out of the database, as arrays.

Invariants

- One row per (point, time): equal ones collapse; of different ones the later in the ledger is returned,
  flagged `Quality.UNCERTAIN_CONFLICT` if it has a value.
- Rows are ordered by time; a bad reading is a row without a value.
- The result depends on what is stored alone, not on the order in which it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.sql import SQL, Composable, Identifier

from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.times import POSTGRES_EPOCH_US, to_datetime
from protocols.quality import FIRST_BAD, Quality
from protocols.reading import ValueType

_SQL = sql.load("cloud_ingest.store", "readings.sql")


@dataclass(frozen=True, slots=True)
class _Packing:
    """How values of one type come packed: the function that packs one, its filler for NULL, the array type."""

    send: str
    filler: SQL
    packed: str
    dtype: Any


_PACKINGS: dict[ValueType, _Packing] = {
    "float": _Packing("float8send", SQL("'NaN'::float8"), ">f8", np.float64),
    "int": _Packing("int8send", SQL("0::int8"), ">i8", np.int64),
    "bool": _Packing("boolsend", SQL("false"), "?", np.bool_),
}


@dataclass(frozen=True, slots=True)
class Series:
    """Readings of one point.

    Attributes
    ----------
    times_us
        Times of measurement, ascending, each once [µs UTC].
    values
        float64, int64, bool or str by the point's value type; where the quality is bad: NaN, 0, False, "".
    qualities
        Codes of `protocols.quality`.
    batch_ids
        The batch each came with.
    """

    times_us: NDArray[np.int64]
    values: NDArray[Any]
    qualities: NDArray[np.uint8]
    batch_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.times_us)

    def as_float(self) -> NDArray[np.float64]:
        """Values of a float, int or bool point as float64, NaN where the quality is bad."""
        values = self.values.astype(np.float64)
        values[self.qualities >= FIRST_BAD] = np.nan
        return values


def fetch(
    conn: Connection,
    value_type: ValueType,
    points: Sequence[int],
    first_us: int,
    last_us: int,
    *,
    neighbour_limit_us: int = 0,
    neighbour_below: int = FIRST_BAD,
) -> dict[int, Series]:
    """Readings of some points of one value type between two times, and their neighbours beyond.

    Parameters
    ----------
    conn
        Connection.
    value_type
        Of all these points.
    points
        Point ids.
    first_us, last_us
        Range, both included [µs UTC].
    neighbour_limit_us
        If above 0: the series starts at the nearest valid reading before `first_us` that is no further away
        than this, and ends at the nearest valid one after `last_us` alike [µs].
    neighbour_below
        What a valid neighbour is: a quality below this code.

    Returns
    -------
    dict
        Series by point id; an empty one for a point without readings there.
    """
    parameters = {
        "points": list(points),
        "first": to_datetime(first_us),
        "last": to_datetime(last_us),
        "limit_us": neighbour_limit_us,
        "below": neighbour_below,
    }
    rows = conn.execute(_statement("fetch", value_type), parameters, binary=True).fetchall()
    found = {row[0]: _series(row[1:], value_type) for row in rows}
    empty = _series((b"", [] if value_type == "text" else b"", b"", b""), value_type)
    return {point: found.get(point, empty) for point in points}


def page(
    conn: Connection, value_type: ValueType, point: int, first_us: int, last_us: int, limit: int
) -> tuple[Series, int | None]:
    """A bounded piece of one point's readings between two times, both included.

    Returns
    -------
    series, next_us
        At least one and at most `limit` readings, if there are any; and the `first_us` that continues, None at
        the end [µs UTC].
    """
    asked = limit + 1
    while True:
        parameters = {"point": point, "first": to_datetime(first_us), "last": to_datetime(last_us), "limit": asked}
        row = conn.execute(_statement("page", value_type), parameters, binary=True).fetchone()
        assert row is not None
        count, *columns = row
        series = _series(columns, value_type)
        if count < asked:
            break
        if len(series) > 1:
            # The rows of the last time may be incomplete: the next page starts with them.
            return _cut(series, len(series) - 1), int(series.times_us[-1])
        asked *= 2
    if len(series) > limit:
        return _cut(series, limit), int(series.times_us[limit])
    return series, None


def _statement(name: str, value_type: ValueType) -> Any:
    table = Identifier(f"reading_{value_type}")
    values: Composable
    if value_type == "text":
        values = SQL("array_agg(coalesce(value, ''))")
    else:
        packing = _PACKINGS[value_type]
        values = SQL("string_agg({send}(coalesce(value, {filler})), ''::bytea)").format(
            send=Identifier(packing.send), filler=packing.filler
        )
    return _SQL[name].format(table=table, values=values)


def _series(columns: Sequence[Any], value_type: ValueType) -> Series:
    """Columns as they come from the database: times, values, batches, qualities; packed, or None if empty."""
    times, values, batches, qualities = columns
    packed_times = np.frombuffer(times or b"", ">i8").astype(np.int64) + POSTGRES_EPOCH_US
    if value_type == "text":
        array: NDArray[Any] = np.array(values or [], np.object_)
    else:
        packing = _PACKINGS[value_type]
        array = np.frombuffer(values or b"", packing.packed).astype(packing.dtype)
    return _collapse(
        packed_times,
        array,
        np.frombuffer(batches or b"", ">i8").astype(np.int64),
        np.frombuffer(qualities or b"", ">i2").astype(np.uint8),
    )


def _collapse(
    times: NDArray[np.int64], values: NDArray[Any], batches: NDArray[np.int64], qualities: NDArray[np.uint8]
) -> Series:
    """Order by time and leave one row a time."""
    if len(times) > 1 and not (np.diff(times) > 0).all():
        # The value decides last, so that even two values of one time in one batch give the same result always.
        order = np.lexsort((values, qualities, batches, times))
        times, values, batches, qualities = times[order], values[order], batches[order], qualities[order]
        same = times[1:] == times[:-1]
        if same.any():
            first = np.concatenate(([True], ~same))
            last = np.concatenate((~same, [True]))
            alike = (values[1:] == values[:-1]) | ((values[1:] != values[1:]) & (values[:-1] != values[:-1]))
            differs = same & ~(alike & (qualities[1:] == qualities[:-1]))
            group = np.cumsum(first) - 1
            conflict = np.zeros(int(group[-1]) + 1, np.bool_)
            conflict[group[1:][differs]] = True
            times, values, batches = times[last], values[last], batches[last]
            qualities = qualities[last]
            qualities[conflict & (qualities < FIRST_BAD)] = Quality.UNCERTAIN_CONFLICT
    return Series(times, values, qualities, batches)


def _cut(series: Series, size: int) -> Series:
    return Series(series.times_us[:size], series.values[:size], series.qualities[:size], series.batch_ids[:size])
