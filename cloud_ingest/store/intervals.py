"""Use per base interval of 15 minutes, and what settle remembers of points and sites.

Invariants

- One row per (point, start); no row where nothing is known and nothing happened.
- Uses are whole millionths of the quantity's canonical unit: hours and days are their sums.
- A point's span of valid readings and a site's clock only ever grow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.sql import Identifier

from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection
from protocols.reading import ValueType
from protocols.timebase import US

_SQL = sql.load("cloud_ingest.store", "intervals.sql")


@dataclass(frozen=True, slots=True)
class CataloguePoint:
    """A point as registered; attributes as in `protocols.birth.Point`."""

    point_id: int
    name: str
    quantity: str
    unit: str
    kind: str
    value_type: ValueType
    definition: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Extent:
    """What is remembered of a point.

    Attributes
    ----------
    parameters
        Everything but readings that its use depends on, as text.
    first_us, last_us
        Times of its first and last valid reading; None: there was none yet [µs UTC].
    """

    parameters: str
    first_us: int | None
    last_us: int | None


@dataclass(frozen=True, slots=True)
class Intervals:
    """Base intervals as columns of one length.

    Attributes
    ----------
    points
        Point ids.
    starts_us
        Starts [µs UTC].
    uses, known
        Use, and whether it is known [millionths].
    covered_us
        Time in which the counter's course is known [µs].
    estimated
        Part of the use that was split by time over a gap [millionths].
    flags
        Bits of `accounting.kernels.counter.Flag`.
    """

    points: NDArray[np.int32]
    starts_us: NDArray[np.int64]
    uses: NDArray[np.int64]
    known: NDArray[np.bool_]
    covered_us: NDArray[np.int64]
    estimated: NDArray[np.int64]
    flags: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Intervals:
        """Some of the rows, by mask or by position."""
        return Intervals(*(getattr(self, name)[rows] for name in self.__slots__))

    @classmethod
    def join(cls, parts: Sequence[Intervals]) -> Intervals:
        """All rows of some parts; at least one part."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


def catalogue(conn: Connection, tenant_id: int, site: str) -> list[CataloguePoint]:
    """All points of a site."""
    rows = conn.execute(_SQL["catalogue"], {"tenant_id": tenant_id, "site": site}).fetchall()
    return [CataloguePoint(*row) for row in rows]


def extents(conn: Connection, points: Sequence[int]) -> dict[int, Extent]:
    """What is remembered of points; those never computed are absent."""
    rows = conn.execute(_SQL["extents"], {"points": list(points)}).fetchall()
    return {point: Extent(parameters, first, last) for point, parameters, first, last in rows}


def save_extents(conn: Connection, found: Mapping[int, Extent]) -> None:
    """Remember parameters, and widen the spans of valid readings."""
    if found:
        columns = {
            "points": list(found),
            "parameters": [extent.parameters for extent in found.values()],
            "first": [extent.first_us for extent in found.values()],
            "last": [extent.last_us for extent in found.values()],
        }
        conn.execute(_SQL["save_extents"], columns)


def clock(conn: Connection, tenant_id: int, site: str) -> int | None:
    """Latest time of measurement at a site that settle knows of [µs UTC]."""
    row = conn.execute(_SQL["clock"], {"tenant_id": tenant_id, "site": site}).fetchone()
    return None if row is None else int(row[0])


def save_clock(conn: Connection, tenant_id: int, site: str, clock_us: int) -> None:
    """Move a site's clock on."""
    conn.execute(_SQL["save_clock"], {"tenant_id": tenant_id, "site": site, "clock": clock_us})


def upsert(conn: Connection, rows: Intervals) -> list[tuple[int, int]]:
    """Store rows; return (point, start [µs UTC]) of those that are new or differ from what was stored."""
    if not len(rows):
        return []
    columns = {
        "points": rows.points.tolist(),
        "starts": (rows.starts_us // US).tolist(),
        "uses": rows.uses.tolist(),
        "known": rows.known.tolist(),
        "covered": rows.covered_us.tolist(),
        "estimated": rows.estimated.tolist(),
        "flags": rows.flags.tolist(),
    }
    return [(point, start * US) for point, start in conn.execute(_SQL["upsert"], columns).fetchall()]


def remove(conn: Connection, points: NDArray[np.int32], starts_us: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Remove rows; return (point, start [µs UTC]) of those that were there."""
    if not len(points):
        return []
    columns = {"points": points.tolist(), "starts": (starts_us // US).tolist()}
    return [(point, start * US) for point, start in conn.execute(_SQL["remove"], columns).fetchall()]


def load(conn: Connection, points: Sequence[int], first_us: int, end_us: int) -> Intervals:
    """Rows of points with a start in ``[first_us, end_us)``, in no order."""
    parameters = {"points": list(points), "first": first_us // US, "end": end_us // US}
    rows = conn.execute(_SQL["load"], parameters, binary=True).fetchall()
    counts = [len(row[3]) for row in rows]
    starts, uses, known, covered, estimated, flags = (b"".join(row[k] for row in rows) for k in range(1, 7))
    return Intervals(
        np.repeat(np.array([row[0] for row in rows], np.int32), counts),
        np.frombuffer(starts, ">i8").astype(np.int64) * US,
        np.frombuffer(uses, ">i8").astype(np.int64),
        np.frombuffer(known, np.bool_).copy(),
        np.frombuffer(covered, ">i8").astype(np.int64),
        np.frombuffer(estimated, ">i8").astype(np.int64),
        np.frombuffer(flags, ">i2").astype(np.int16),
    )


def reading_span(conn: Connection, value_type: ValueType, point: int) -> tuple[int, int] | None:
    """Times of the first and last reading of a point, valid or not; None: it has none [µs UTC]."""
    statement = _SQL["reading_span"].format(table=Identifier(f"reading_{value_type}"))
    first, last = conn.execute(statement, {"point": point}).fetchall()[0]
    return None if first is None else (first, last)
