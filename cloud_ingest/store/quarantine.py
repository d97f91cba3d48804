"""Quarantine: readings with times that can't be, kept out of the reading tables until somebody decides.

Invariants

- A row stays as it came; only its state changes, once: from held to released or to discarded.
- A reading is released in the transaction that marks it so, copies it into its reading table, tells the change
  feed and records who did it.
- What is released has a possible time that is not in the future. It is marked: its time was put right by the
  operator, or the clock that gave it was wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.rows import class_row

from cloud_ingest.store import actions, copy, feed, sql
from cloud_ingest.store.actions import Operator
from cloud_ingest.store.copy import Rows
from cloud_ingest.store.feed import Addition
from cloud_ingest.store.partitions import Partitions
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.times import EARLIEST_US
from protocols.quality import FIRST_BAD, FIRST_UNCERTAIN, Quality
from protocols.reading import VALUE_TYPES, ValueType

_SQL = sql.load("cloud_ingest.store", "quarantine.sql")

RELEASE = "quarantine release"
"""Cause in the change feed, and the action."""
DISCARD = "quarantine discard"
MOST = 5000
"""Most readings of one transaction."""
STATES = ("held", "released", "discarded")


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A reading in quarantine.

    Attributes
    ----------
    id
        Its own.
    state
        One of `STATES`.
    batch_id
        The batch it came with.
    tenant, agent
        Whose; the agent is None if the ledger no longer knows the batch.
    point
        Full name.
    at_us
        Its time as it came [µs UTC]; any 64-bit number.
    value
        As text; None if the quality is bad.
    quality, reason
        Code of `protocols.quality`, and why it is here.
    quarantined_at
        When it came.
    """

    id: int
    state: str
    batch_id: int
    tenant: str
    agent: str | None
    point: str
    at_us: int
    value: str | None
    quality: int
    reason: str
    quarantined_at: datetime


@dataclass(frozen=True, slots=True)
class Fits:
    """Which readings; all that is given must fit.

    Attributes
    ----------
    tenant, agent, point, state
        As in `Quarantined`.
    """

    tenant: str | None = None
    agent: str | None = None
    point: str | None = None
    state: str = "held"


HELD = Fits()
"""All readings that nobody has decided on."""


def add(conn: Connection, rows: Rows, reason: str) -> None:
    """Store readings in the current transaction; values as text, exactly."""
    qualities = rows.qualities.tolist()
    values = rows.values.tolist()
    parameters = {
        "batch_id": rows.batch_ids.tolist(),
        "point_id": rows.point_ids.tolist(),
        "at_us": rows.at_us.tolist(),
        "value": [None if q >= FIRST_BAD else str(v) for v, q in zip(values, qualities, strict=True)],
        "quality": qualities,
        "reason": reason,
    }
    conn.execute(_SQL["add"], parameters)


def newest(conn: Connection, limit: int, below: int | None = None, fits: Fits = HELD) -> list[Quarantined]:
    """Readings by descending id, those below an id only if one is given."""
    with conn.cursor(row_factory=class_row(Quarantined)) as cursor:
        return cursor.execute(_SQL["newest"], asdict(fits) | {"limit": limit, "below": below}).fetchall()


def find(conn: Connection, ident: int) -> Quarantined | None:
    """One reading."""
    with conn.cursor(row_factory=class_row(Quarantined)) as cursor:
        return cursor.execute(_SQL["find"], {"id": ident}).fetchone()


def idents(conn: Connection, fits: Fits = HELD) -> list[int]:
    """Ids of readings, ascending."""
    return [row[0] for row in conn.execute(_SQL["idents"], asdict(fits)).fetchall()]


def release(
    conn: Connection,
    partitions: Partitions,
    idents: Sequence[int],
    latest_us: int,
    operator: Operator,
    shift_us: int = 0,
) -> int:
    """Put readings where they belong. Commits, `MOST` readings at a time.

    Parameters
    ----------
    conn
        Connection in autocommit mode.
    partitions
        Of that connection.
    idents
        Which readings; those not held any more, or whose time can't be even when shifted, are left out.
    latest_us
        Readings later than this are in the future [µs UTC].
    operator
        Who does it.
    shift_us
        Added to each time [µs].

    Returns
    -------
    int
        How many were released now.
    """
    return sum(
        _release(conn, partitions, idents[first : first + MOST], latest_us, operator, shift_us)
        for first in range(0, len(idents), MOST)
    )


def discard(conn: Connection, idents: Sequence[int], operator: Operator) -> int:
    """Mark held readings as discarded; how many were. Commits, `MOST` readings at a time."""
    count = 0
    for first in range(0, len(idents), MOST):
        with conn.transaction():
            count += len(_settle(conn, idents[first : first + MOST], operator, DISCARD, {}))
    return count


def _release(
    conn: Connection,
    partitions: Partitions,
    idents: Sequence[int],
    latest_us: int,
    operator: Operator,
    shift_us: int,
) -> int:
    possible = {"ids": list(idents), "first_us": EARLIEST_US - shift_us, "last_us": latest_us - shift_us}
    rows = conn.execute(_SQL["releasable"], possible).fetchall()
    for value_type in VALUE_TYPES:
        times = [row[4] + shift_us for row in rows if row[3] == value_type]
        if times:
            partitions.ensure(value_type, times)
    with conn.transaction():
        taken = _settle(conn, [row[0] for row in rows], operator, RELEASE, {"shift_us": shift_us})
        mine = [row for row in rows if row[0] in taken]
        for value_type in VALUE_TYPES:
            parts = [row for row in mine if row[3] == value_type]
            if parts:
                copy.write(conn, _rows(value_type, parts, shift_us))
        feed.append_all(conn, _additions(mine, shift_us))
    return len(taken)


def _settle(conn: Connection, idents: Sequence[int], operator: Operator, what: str, detail: dict[str, Any]) -> set[int]:
    """Decide on readings that are held, in the current transaction; ids of those that were."""
    held = {row[0] for row in conn.execute(_SQL["lock_held"], {"ids": list(idents)}).fetchall()}
    if held:
        action_id = actions.record(conn, operator, what, detail | {"readings": len(held)})
        state = "released" if what == RELEASE else "discarded"
        conn.execute(_SQL["settle"], {"ids": sorted(held), "state": state, "action_id": action_id})
    return held


def _rows(value_type: ValueType, rows: Sequence[tuple[Any, ...]], shift_us: int) -> Rows:
    """Rows of one value type for its reading table."""
    _, batch_ids, point_ids, _, times, values, qualities, _ = zip(*rows, strict=True)
    codes = np.array(qualities, np.uint8)
    codes[codes < FIRST_UNCERTAIN] = Quality.GOOD_RETIMED if shift_us else Quality.UNCERTAIN_CLOCK
    return Rows(
        value_type,
        np.array(times, np.int64) + shift_us,
        _values(value_type, values),
        np.array(batch_ids, np.int64),
        np.array(point_ids, np.int32),
        codes,
    )


def _values(value_type: ValueType, values: Sequence[str | None]) -> NDArray[Any]:
    """Values from their texts; anything where there is none."""
    match value_type:
        case "float":
            return np.array([float(value or 0) for value in values], np.float64)
        case "int":
            return np.array([int(value or 0) for value in values], np.int64)
        case "bool":
            return np.array([value == "True" for value in values], np.bool_)
        case "text":
            return np.array(values, np.object_)


def _additions(rows: Sequence[tuple[Any, ...]], shift_us: int) -> list[Addition]:
    """A row of the change feed for each batch."""
    by_batch: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
    for row in rows:
        by_batch.setdefault((row[1], row[7]), []).append(row)
    return [
        Addition(
            tenant_id,
            RELEASE,
            np.unique(np.array([row[2] for row in mine], np.int32)),
            min(row[4] for row in mine) + shift_us,
            max(row[4] for row in mine) + shift_us,
            batch_id,
        )
        for (batch_id, tenant_id), mine in by_batch.items()
    ]
