"""State of agents as their session records tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection
from protocols.session import Session

_SQL = sql.load("cloud_ingest.store", "agents.sql")


@dataclass(frozen=True, slots=True)
class Known:
    """An agent that has announced a session.

    Attributes
    ----------
    agent_id, tenant, name
        Id and names.
    session
        Id of its latest session, 32 hex digits.
    epochs
        Epochs that its buffer held then.
    """

    agent_id: int
    tenant: str
    name: str
    session: str
    epochs: tuple[str, ...]


def update(conn: Connection, sessions: Sequence[tuple[int, Session]]) -> None:
    """Store session records in the order given, in the current transaction.

    An offline record counts for its own session only: the last will of an old connection may come long after
    the agent has announced itself by a new one. It leaves the epochs as they were.
    """
    for agent_id, record in sorted(sessions, key=lambda session: session[0]):
        online = record.state == "online"
        parameters = {
            "agent_id": agent_id,
            "state": record.state,
            "online": online,
            "session": UUID(record.session),
            "epochs": [UUID(epoch) for epoch in record.epochs] if online else None,
            "software": record.software,
            "detail": record.detail,
        }
        conn.execute(_SQL["update"], parameters)


def known(conn: Connection) -> list[Known]:
    """All agents that have announced a session."""
    return [
        Known(agent_id, tenant, name, session.hex, tuple(epoch.hex for epoch in epochs))
        for agent_id, tenant, name, session, epochs in conn.execute(_SQL["known"]).fetchall()
    ]


def names(conn: Connection, agent_ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Tenant and name of agents by id."""
    rows = conn.execute(_SQL["names"], (list(agent_ids),)).fetchall()
    return {agent_id: (tenant, name) for agent_id, tenant, name in rows}
