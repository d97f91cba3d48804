"""Gap records: readings that an agent had to drop, point by point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.types.json import Jsonb

from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.times import to_datetime

_SQL = sql.load("cloud_ingest.store", "gaps.sql")


@dataclass(frozen=True, slots=True)
class Loss:
    """Readings lost of some points.

    Attributes
    ----------
    points
        Point ids.
    first_us, last_us
        Times of the first and the last one lost [µs UTC].
    readings
        How many.
    """

    points: Sequence[int]
    first_us: int
    last_us: int
    readings: int


def add(
    conn: Connection,
    batch_id: int,
    agent_id: int,
    reason: str,
    dropped: dict[str, tuple[tuple[int, int], ...]],
    losses: Sequence[Loss],
) -> None:
    """Store the losses of one gap record in the current transaction; a record without details is a row too."""
    for loss in losses or (None,):
        parameters = {
            "batch_id": batch_id,
            "agent_id": agent_id,
            "reason": reason,
            "dropped": Jsonb(dropped),
            "points": list(loss.points) if loss else [],
            "first_at": to_datetime(loss.first_us) if loss else None,
            "last_at": to_datetime(loss.last_us) if loss else None,
            "readings": loss.readings if loss else 0,
        }
        conn.execute(_SQL["add"], parameters)
