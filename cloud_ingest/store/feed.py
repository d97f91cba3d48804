"""The change feed: one row per batch or cause, telling what accounts may have to be computed again.

Invariants

- A row is appended in the transaction that makes the change.
- Serial ids become visible out of order with several writers, so a follower reads only rows of transactions
  below the oldest one still running, ordered by (transaction, id): nothing can appear behind its cursor.
- A follower moves its cursor in the transaction that stores what it computed from the rows.
- Rows are removed only when every follower has passed them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_ingest.store import sql
from cloud_ingest.store.copy import HEADER, TRAILER
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.times import POSTGRES_EPOCH_US, to_datetime

_SQL = sql.load("cloud_ingest.store", "feed.sql")
_ARRAY = struct.Struct(">iiiii")
_TAIL = struct.Struct(">iqiqiq")
_INT4_OID = 23
PRUNED_AT_ONCE = 5000
"""Rows that one statement of `prune` looks at."""
PRUNING_STATEMENTS = 10
"""Statements of one call of `prune`."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the feed.

    Attributes
    ----------
    xid, id
        Its place in the reading order.
    tenant_id
        Whose.
    cause
        ``live``, ``replay`` (parked data whose schema came, dead letters stored after all), ``quarantine release``;
        users of the store add their own.
    points
        Ids of the points touched.
    first_us, last_us
        Times touched, both included [µs UTC].
    batch_id
        The batch that did it, if one did.
    appended_us
        When it was appended [µs UTC, real time].
    """

    xid: int
    id: int
    tenant_id: int
    cause: str
    points: tuple[int, ...]
    first_us: int
    last_us: int
    batch_id: int | None
    appended_us: int


@dataclass(frozen=True, slots=True)
class Addition:
    """A row to append for a batch.

    Attributes
    ----------
    tenant_id, cause, first_us, last_us, batch_id
        As in `Change`.
    points
        Ids of the points touched.
    """

    tenant_id: int
    cause: str
    points: NDArray[np.int32]
    first_us: int
    last_us: int
    batch_id: int


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a follower is behind.

    Attributes
    ----------
    follower
        Its name.
    rows
        Rows not yet passed.
    oldest_s
        Age of the oldest of them [s]; 0 if none.
    held_rows
        Those of them that it may not read yet, because an older transaction is still running.
    """

    follower: str
    rows: int
    oldest_s: float
    held_rows: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction that holds the feed back: the oldest one that may have written something.

    Attributes
    ----------
    pid, application, state
        As in ``pg_stat_activity``.
    age_s
        How long the transaction has been open [s].
    """

    pid: int
    application: str
    state: str
    age_s: float


def follow(conn: Connection, follower: str) -> None:
    """Make sure that a follower exists; a new one starts at the oldest row kept."""
    conn.execute(_SQL["follow"], {"name": follower})


def read(conn: Connection, follower: str, limit: int = 1000) -> list[Change]:
    """Rows after the follower's cursor that are safe to read, in order; at most `limit`.

    The follower's row is locked until the transaction ends, so that two processes with one name take turns.
    """
    conn.execute(_SQL["lock_follower"], {"name": follower})
    rows = conn.execute(_SQL["read"], {"name": follower, "limit": limit}).fetchall()
    return [_change(row) for row in rows]


def advance(conn: Connection, follower: str, last: Change) -> None:
    """Move the cursor to `last`: it and everything before it is done."""
    conn.execute(_SQL["advance"], {"name": follower, "xid": str(last.xid), "id": last.id})


def append(
    conn: Connection,
    tenant_id: int,
    cause: str,
    points: Sequence[int],
    first_us: int,
    last_us: int,
    batch_id: int | None = None,
) -> None:
    """Append one row in the current transaction.

    Parameters
    ----------
    conn
        The connection whose transaction makes the change.
    tenant_id, cause, points, first_us, last_us, batch_id
        As in `Change`.
    """
    row = {
        "tenant_id": tenant_id,
        "cause": cause,
        "points": list(points),
        "first_at": to_datetime(first_us),
        "last_at": to_datetime(last_us),
        "batch_id": batch_id,
    }
    conn.execute(_SQL["append"], row)


def append_all(conn: Connection, additions: Sequence[Addition]) -> None:
    """Append a row per batch in the current transaction, by binary COPY."""
    if not additions:
        return
    with conn.cursor() as cursor, cursor.copy(_SQL["copy"]) as copy:
        copy.write(HEADER)
        copy.write(b"".join(map(_encode, additions)))
        copy.write(TRAILER)


def _encode(row: Addition) -> bytes:
    """One row in the binary format of COPY; the points as a one-dimensional int4[] without NULL."""
    cause = row.cause.encode()
    elements = np.empty(len(row.points), [("size", ">i4"), ("point", ">i4")])
    elements["size"] = 4
    elements["point"] = row.points
    points = _ARRAY.pack(1, 0, _INT4_OID, len(row.points), 1) + elements.tobytes()
    return b"".join(
        (
            struct.pack(">hiii", 6, 4, row.tenant_id, len(cause)),
            cause,
            struct.pack(">i", len(points)),
            points,
            _TAIL.pack(8, row.first_us - POSTGRES_EPOCH_US, 8, row.last_us - POSTGRES_EPOCH_US, 8, row.batch_id),
        )
    )


def prune(conn: Connection, keep_s: float) -> tuple[int, bool]:
    """Remove rows that every follower has passed and that are older than `keep_s` [s]; none without followers.

    Parameters
    ----------
    conn
        A connection in autocommit mode: each statement is a transaction, of bounded work.
    keep_s
        How long rows stay.

    Returns
    -------
    removed, more
        How many rows went, and whether a further call may find some.
    """
    removed = 0
    for _ in range(PRUNING_STATEMENTS):
        count = conn.execute(_SQL["prune"], {"keep_s": keep_s, "limit": PRUNED_AT_ONCE}).rowcount
        removed += count
        if count < PRUNED_AT_ONCE:
            return removed, False
    return removed, True


def lag(conn: Connection) -> list[Lag]:
    """How far each follower is behind."""
    return [Lag(name, rows, float(oldest), held) for name, rows, oldest, held in conn.execute(_SQL["lag"]).fetchall()]


def holders(conn: Connection) -> list[Holder]:
    """The transactions that hold the feed back, oldest first."""
    rows = conn.execute(_SQL["holders"]).fetchall()
    return [Holder(pid, application, state, float(age)) for pid, application, state, age in rows]


def restart(conn: Connection) -> None:
    """Number the feed anew after a restore, keeping for each follower what it has and has not read.

    A database loaded into another cluster has rows with transaction numbers that mean nothing there: they
    could lie in the cluster's future and hide from the followers, or hide new rows from them.
    """
    conn.execute(_SQL["lock_feed"])
    conn.execute(_SQL["restart_followers"])
    conn.execute(_SQL["restart_feed"])


def _change(row: tuple[Any, ...]) -> Change:
    xid, ident, tenant_id, cause, points, first_us, last_us, batch_id, appended_us = row
    return Change(int(xid), ident, tenant_id, cause, tuple(points), first_us, last_us, batch_id, appended_us)
