"""From a batch to rows for the reading tables: vectorised, checked against its schema and against the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """

    stored: tuple[Rows, ...]
    quarantined: tuple[tuple[Rows, str], ...]

    def size(self) -> int:
        """How many readings go to the reading tables."""
        return sum(map(len, self.stored))

    def span_us(self) -> tuple[int, int] | None:
        """First and last time of the stored readings [µs UTC]."""
        if not self.stored:
            return None
        return (
            min(int(rows.at_us.min()) for rows in self.stored),
            max(int(rows.at_us.max()) for rows in self.stored),
        )

    def points(self) -> NDArray[np.int32]:
        """Points of the stored readings, each once."""
        return np.unique(np.concatenate([rows.point_ids for rows in self.stored]))

    def of_batch(self, batch_id: int) -> Prepared:
        """The same rows with the batch's id."""
        return Prepared(
            tuple(_of_batch(rows, batch_id) for rows in self.stored),
            tuple((_of_batch(rows, batch_id), reason) for rows, reason in self.quarantined),
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
    for value_type, columns in batch.columns.items():
        rows = _rows(value_type, columns, batch.base_us, points)
        early, late = rows.at_us < EARLIEST_US, rows.at_us > latest_us
        if early.any():
            quarantined.append((_where(rows, early), "before the year 2000"))
        if late.any():
            quarantined.append((_where(rows, late), "in the future"))
        fits = ~(early | late)
        if fits.all():
            stored.append(rows)
        elif fits.any():
            stored.append(_where(rows, fits))
    return Prepared(tuple(stored), tuple(quarantined))


def _rows(value_type: ValueType, columns: Columns, base_us: int, points: SchemaPoints) -> Rows:
    indices = np.array(columns.points, np.int64)
    highest = int(indices.max())
    if highest >= len(points):
        raise RefusedError("invalid", f"point index {highest} in a schema of {len(points)} points")
    wrong = points.value_types[indices] != VALUE_TYPES.index(value_type)
    if wrong.any():
        index = int(indices[wrong.argmax()])
        expected = VALUE_TYPES[points.value_types[index]]
        raise RefusedError("invalid", f"point {points.names[index]!r} has a {value_type} value; allowed: {expected}")
    offsets = np.array(columns.offsets_us, np.int64)
    if base_us + int(offsets.min()) < -_INT64 or base_us + int(offsets.max()) >= _INT64:
        raise RefusedError("invalid", f"base time {base_us} µs makes times beyond 64 bits")
    size = len(indices)
    qualities = np.array(columns.qualities, np.uint8) if len(columns.qualities) else np.zeros(size, np.uint8)
    return Rows(
        value_type,
        offsets + base_us,
        _values(value_type, columns.values),
        np.zeros(size, np.int64),
        points.point_ids[indices],
        qualities,
    )


def _values(value_type: ValueType, values: Sequence[Any]) -> NDArray[Any]:
    match value_type:
        case "float":
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
    return replace(rows, batch_ids=np.full(len(rows), batch_id, np.int64))
