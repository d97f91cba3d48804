"""What an operator wants to know of the store at a glance."""

from __future__ import annotations

from typing import Any

from cloud_ingest.store import editions, feed, incarnation, sql
from cloud_ingest.store.pool import Connection

_SQL = sql.load("cloud_ingest.store", "status.sql")


def status(conn: Connection) -> dict[str, Any]:
    """State of a migrated store, as a JSON document.

    Counts are exact; on a large ledger they take a while.
    """
    life = incarnation.current(conn)
    stored, parked, dead, readings = conn.execute(_SQL["ledger"]).fetchall()[0]
    return {
        "edition": editions.detect(conn).value,
        "incarnation": {"id": life.id, "drawn_us": life.drawn_us},
        "ledger": {"stored": stored, "parked": parked, "dead": dead, "readings": readings},
        "parked": _count(conn, "parked"),
        "dead_letters": _count(conn, "dead_letters"),
        "quarantined": _count(conn, "quarantined"),
        "agents": dict(conn.execute(_SQL["agents"]).fetchall()),
        "feed": {
            "followers": [
                {"name": lag.follower, "rows": lag.rows, "oldest_s": lag.oldest_s, "held_rows": lag.held_rows}
                for lag in feed.lag(conn)
            ],
            "held_by": [
                {"pid": h.pid, "application": h.application, "state": h.state, "age_s": h.age_s}
                for h in feed.holders(conn)
            ],
        },
    }


def _count(conn: Connection, name: str) -> int:
    return int(conn.execute(_SQL[name]).fetchall()[0][0])
