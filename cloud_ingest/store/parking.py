"""Parked messages: readings whose schema is not known yet, kept until it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection

_SQL = sql.load("cloud_ingest.store", "parking.sql")


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked message.

    Attributes
    ----------
    batch_id
        Its ledger row.
    tenant_id, agent_id
        Whose.
    schema_id
        The schema it waits for.
    topic, payload
        The message.
    reason
        For a human.
    """

    batch_id: int
    tenant_id: int
    agent_id: int
    schema_id: bytes
    topic: str
    payload: bytes = field(repr=False)
    reason: str


def add(conn: Connection, messages: Sequence[Parked]) -> None:
    """Park messages in the current transaction."""
    rows = [(m.batch_id, m.tenant_id, m.agent_id, m.schema_id, m.topic, m.payload, m.reason) for m in messages]
    with conn.cursor() as cursor:
        cursor.executemany(_SQL["add"], rows)


def due(conn: Connection, limit: int, after: int = 0) -> list[Parked]:
    """Messages whose schema is known by now, by ascending batch id beyond `after`; nothing is locked."""
    rows = conn.execute(_SQL["due"], {"limit": limit, "after": after}).fetchall()
    return [Parked(*row) for row in rows]


def take(conn: Connection, batch_ids: Sequence[int]) -> set[int]:
    """Remove messages in the current transaction; those that another one holds or has removed are left out."""
    return {row[0] for row in conn.execute(_SQL["take"], (sorted(batch_ids),)).fetchall()}
