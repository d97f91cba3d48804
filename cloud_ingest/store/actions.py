"""Actions of operators: who did what to stored things by hand, when and why.

Invariants

- An action is recorded in the transaction that does it.
- Rows are never changed nor removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection

_SQL = sql.load("cloud_ingest.store", "actions.sql")


@dataclass(frozen=True, slots=True)
class Operator:
    """Who acts, and why.

    Attributes
    ----------
    who
        Name of a person or an account.
    why
        For whoever asks later; "" where the action explains itself.
    """

    who: str
    why: str = ""


def record(conn: Connection, operator: Operator, what: str, detail: dict[str, Any]) -> int:
    """Record an action in the current transaction; its id."""
    parameters = {"who": clean(operator.who), "what": what, "why": clean(operator.why), "detail": Jsonb(detail)}
    row = conn.execute(_SQL["record"], parameters).fetchone()
    assert row is not None
    return int(row[0])


def clean(text: str) -> str:
    """Text that any database takes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "�")
