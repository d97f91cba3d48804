"""Quarantine: readings with times that can't be, kept out of the reading tables."""

from __future__ import annotations

from cloud_ingest.store import sql
from cloud_ingest.store.copy import Rows
from cloud_ingest.store.pool import Connection
from protocols.quality import FIRST_BAD

_SQL = sql.load("cloud_ingest.store", "quarantine.sql")


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
