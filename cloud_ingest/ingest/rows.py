"""From a batch to rows for the reading tables: vectorised, checked against its schema and against the clock."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_ingest.errors import RefusedError
from cloud_ingest.store.copy import Rows
from cloud_ingest.store.registry import SchemaPoints
from cloud_ingest.store.times import EARLIEST_US
from protocols.reading import VALUE_TYPES, Batch, Columns, ValueType

_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows of one batch.

    Attributes
    ----------
    stored
        For the reading tables, one entry a value type.
    quarantined
        With times that can't be, and why.
    span
        First and last time of the stored readings [µs UTC].
    """

    stored: tuple[Rows, ...]
    quarantined: tuple[tuple[Rows, str], ...]
    span: tuple[int, int] | None

    def size(self) -> int:
        """How many readings go to the reading tables."""
        return sum(map(len, self.stored))

    def span_us(self) -> tuple[int, int] | None:
        """First and last time of the stored readings [µs UTC]."""
        return self.span

    def points(self) -> NDArray[np.int32]:
        """Points of the stored readings, each once."""
        ids = np.sort(np.concatenate([rows.point_ids for rows in self.stored]))
        fresh = np.ones(len(ids), np.bool_)
        np.not_equal(ids[1:], ids[:-1], out=fresh[1:])
        found: NDArray[np.int32] = ids[fresh]
        return found

    def of_batch(self, batch_id: int) -> Prepared:
        """The same rows with the batch's id."""
        return Prepared(
            tuple([_of_batch(rows, batch_id) for rows in self.stored]),
            tuple([(_of_batch(rows, batch_id), reason) for rows, reason in self.quarantined]),
            self.span,
        )


def prepare(batch: Batch, points: SchemaPoints, latest_us: int) -> Prepared:
    """Turn a batch into rows.

    Parameters
    ----------
    batch
        The batch.
    points
        Of its schema.
    latest_us
        Readings later than this are quarantined, like those before the year 2000 [µs UTC].

    Raises
    ------
    RefusedError
        If it does not fit its schema: an index out of range, or another value type.
    """
    stored: list[Rows] = []
    quarantined: list[tuple[Rows, str]] = []
    firsts: list[int] = []
    lasts: list[int] = []
    for value_type, columns in batch.columns.items():
        rows, first_us, last_us = _rows(value_type, columns, batch.base_us, points)
        if first_us < EARLIEST_US or last_us > latest_us:
            rows = _set_aside(rows, latest_us, quarantined)
            if not len(rows):
                continue
            first_us, last_us = int(rows.at_us.min()), int(rows.at_us.max())
        stored.append(rows)
        firsts.append(first_us)
        lasts.append(last_us)
    return Prepared(tuple(stored), tuple(quarantined), (min(firsts), max(lasts)) if stored else None)


def _set_aside(rows: Rows, latest_us: int, quarantined: list[tuple[Rows, str]]) -> Rows:
    """Move rows with times that can't be to the quarantine; those left."""
    early, late = rows.at_us < EARLIEST_US, rows.at_us > latest_us
    if early.any():
        quarantined.append((_where(rows, early), "before the year 2000"))
    if late.any():
        quarantined.append((_where(rows, late), "in the future"))
    return _where(rows, ~(early | late))


def _rows(value_type: ValueType, columns: Columns, base_us: int, points: SchemaPoints) -> tuple[Rows, int, int]:
    """Rows, and the first and last of their times [µs UTC]."""
    indices = _packed("q", np.int64, columns.points)
    highest = int(indices.max())
    if highest >= len(points):
        raise RefusedError("invalid", f"point index {highest} in a schema of {len(points)} points")
    wrong = points.value_types.take(indices) != VALUE_TYPES.index(value_type)
    if wrong.any():
        index = int(indices[wrong.argmax()])
        expected = VALUE_TYPES[points.value_types[index]]
        raise RefusedError("invalid", f"point {points.names[index]!r} has a {value_type} value; allowed: {expected}")
    offsets = _packed("q", np.int64, columns.offsets_us)
    first_us, last_us = base_us + int(offsets.min()), base_us + int(offsets.max())
    if first_us < -_INT64 or last_us >= _INT64:
        raise RefusedError("invalid", f"base time {base_us} µs makes times beyond 64 bits")
    size = len(indices)
    qualities = np.array(columns.qualities, np.uint8) if len(columns.qualities) else np.zeros(size, np.uint8)
    rows = Rows(
        value_type,
        offsets + base_us,
        _values(value_type, columns.values),
        np.zeros(size, np.int64),
        points.point_ids.take(indices),
        qualities,
    )
    return rows, first_us, last_us


def _packed(code: str, dtype: type[np.generic], column: Sequence[Any]) -> NDArray[Any]:
    """A column without None as an array, much faster than by `np.array`."""
    return np.frombuffer(struct.pack(f"={len(column)}{code}", *column), dtype)


def _values(value_type: ValueType, values: Sequence[Any]) -> NDArray[Any]:
    match value_type:
        case "float":
            try:
                return _packed("d", np.float64, values)
            except struct.error:
                return np.array(values, np.float64)
        case "int":
            return np.array([v or 0 for v in values] if None in values else values, np.int64)
        case "bool":
            return np.array(values, np.bool_)
        case "text":
            return np.array(values, np.object_)


def _where(rows: Rows, mask: NDArray[np.bool_]) -> Rows:
    return Rows(
        rows.value_type,
        rows.at_us[mask],
        rows.values[mask],
        rows.batch_ids[mask],
        rows.point_ids[mask],
        rows.qualities[mask],
    )


def _of_batch(rows: Rows, batch_id: int) -> Rows:
    return Rows(
        rows.value_type,
        rows.at_us,
        rows.values,
        np.full(len(rows), batch_id, np.int64),
        rows.point_ids,
        rows.qualities,
    )
