"""Readings into the database: packed binary COPY straight from arrays.

Invariants

- Rows of a COPY are sorted by (point, time).
- A reading without a value (bad quality) goes as NULL.
- Float, int and bool readings are never touched one by one in Python.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.sql import SQL, Identifier

from cloud_ingest.store.pool import Connection
from cloud_ingest.store.times import POSTGRES_EPOCH_US
from protocols.quality import FIRST_BAD
from protocols.reading import ValueType

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
_COLUMNS = 5
_VALUES: dict[ValueType, str] = {"float": ">f8", "int": ">i8", "bool": ">i1"}
_COPY = SQL("COPY {} (at, value, batch_id, point_id, quality) FROM STDIN (FORMAT BINARY)")
_TEXT_HEAD = struct.Struct(">hiqi")
_TEXT_TAIL = struct.Struct(">iqiiih")


@dataclass(frozen=True, slots=True)
class Rows:
    """Readings of one value type, in columns of one length.

    Attributes
    ----------
    value_type
        Which table they go to.
    at_us
        Times of measurement [µs UTC].
    values
        float64, int64, bool, or objects (str or None) for text; anything where the quality is bad.
    batch_ids
        The batch each came with.
    point_ids
        Points.
    qualities
        Codes of `protocols.quality`.
    """

    value_type: ValueType
    at_us: NDArray[np.int64]
    values: NDArray[Any]
    batch_ids: NDArray[np.int64]
    point_ids: NDArray[np.int32]
    qualities: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.at_us)

    def sorted(self) -> Rows:
        """The same rows by (point, time)."""
        order = _order(self.point_ids, self.at_us)
        return Rows(
            self.value_type,
            self.at_us[order],
            self.values[order],
            self.batch_ids[order],
            self.point_ids[order],
            self.qualities[order],
        )


def _order(point_ids: NDArray[np.int32], at_us: NDArray[np.int64]) -> NDArray[np.intp]:
    """Places of rows by (point, time)."""
    if not len(at_us):
        return np.empty(0, np.intp)
    first_us, lowest = int(at_us.min()), int(point_ids.min())
    span_us = int(at_us.max()) - first_us + 1
    if (int(point_ids.max()) - lowest + 1) * span_us >= 2**63:
        return np.lexsort((at_us, point_ids))
    # Both in one number: one sort instead of two, and a stable one, which makes use of what is in order already.
    return np.argsort((point_ids.astype(np.int64) - lowest) * span_us + (at_us - first_us), kind="stable")


def concatenate(parts: list[Rows]) -> Rows:
    """Rows of several parts of one value type, in their order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Rows(
        first.value_type,
        np.concatenate([part.at_us for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.batch_ids for part in parts]),
        np.concatenate([part.point_ids for part in parts]),
        np.concatenate([part.qualities for part in parts]),
    )


def write(conn: Connection, rows: Rows) -> None:
    """Copy rows into their table in the current transaction."""
    statement = _COPY.format(Identifier(f"reading_{rows.value_type}"))
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(HEADER)
        copy.write(encode(rows.sorted()))
        copy.write(TRAILER)


def encode(rows: Rows) -> bytes:
    """Rows in the binary format of COPY, without its header and trailer."""
    return _encode_text(rows) if rows.value_type == "text" else _encode_packed(rows)


def _encode_packed(rows: Rows) -> bytes:
    layout = np.dtype(
        [
            ("columns", ">i2"),
            ("at_size", ">i4"),
            ("at", ">i8"),
            ("value_size", ">i4"),
            ("value", _VALUES[rows.value_type]),
            ("batch_size", ">i4"),
            ("batch", ">i8"),
            ("point_size", ">i4"),
            ("point", ">i4"),
            ("quality_size", ">i4"),
            ("quality", ">i2"),
        ]
    )
    value_size = layout["value"].itemsize
    packed = np.empty(len(rows), layout)
    packed["columns"] = _COLUMNS
    packed["at_size"] = packed["batch_size"] = 8
    packed["at"] = rows.at_us - POSTGRES_EPOCH_US
    packed["value_size"] = value_size
    packed["value"] = rows.values
    packed["batch"] = rows.batch_ids
    packed["point_size"] = 4
    packed["point"] = rows.point_ids
    packed["quality_size"] = 2
    packed["quality"] = rows.qualities
    without = rows.qualities >= FIRST_BAD
    if not without.any():
        return packed.tobytes()
    # A NULL is a size of -1 and no bytes: cut the bytes of its value out of the even rows.
    packed["value_size"][without] = -1
    octets = packed.view(np.uint8).reshape(len(rows), layout.itemsize)
    kept = np.ones(octets.shape, np.bool_)
    assert layout.fields is not None
    start = layout.fields["value"][1]
    kept[without, start : start + value_size] = False
    return octets[kept].tobytes()


def _encode_text(rows: Rows) -> bytes:
    parts: list[bytes] = []
    columns = zip(
        (rows.at_us - POSTGRES_EPOCH_US).tolist(),
        rows.values.tolist(),
        rows.batch_ids.tolist(),
        rows.point_ids.tolist(),
        rows.qualities.tolist(),
        strict=True,
    )
    for at, value, batch_id, point_id, quality in columns:
        octets = b"" if quality >= FIRST_BAD else value.encode()
        size = -1 if quality >= FIRST_BAD else len(octets)
        parts += (
            _TEXT_HEAD.pack(_COLUMNS, 8, at, size),
            octets,
            _TEXT_TAIL.pack(8, batch_id, 4, point_id, 2, quality),
        )
    return b"".join(parts)
