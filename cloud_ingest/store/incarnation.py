"""Which life of the database this is: a restore from a backup starts a new one, and agents are told."""

from __future__ import annotations

from dataclasses import dataclass

from cloud_ingest.errors import StoreError
from cloud_ingest.store import feed, sql
from cloud_ingest.store.pool import Connection

_SQL = sql.load("cloud_ingest.store", "incarnation.sql")


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of the database.

    Attributes
    ----------
    id
        32 hex digits.
    drawn_us
        When it began [µs UTC]; orders incarnations.
    """

    id: str
    drawn_us: int


def current(conn: Connection) -> Incarnation:
    """The newest incarnation.

    Raises
    ------
    StoreError
        If there is none.
    """
    row = conn.execute(_SQL["current"]).fetchone()
    if row is None:
        raise StoreError("the database has no incarnation; run: cloud-ingest migrate")
    return Incarnation(row[0].hex, row[1])


def restored(conn: Connection) -> Incarnation:
    """Begin a new incarnation after a restore, and number the change feed anew.

    Agents then send again what the restored database lacks; workers notice by themselves.
    """
    with conn.transaction():
        conn.execute(_SQL["draw"], {"reason": "restored"})
        feed.restart(conn)
        return current(conn)
