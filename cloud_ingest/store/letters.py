"""Dead letters: messages that can't be stored, kept with their bytes and the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection

_SQL = sql.load("cloud_ingest.store", "letters.sql")
_LONGEST_TOPIC = 500
_LONGEST_REASON = 2000


@dataclass(frozen=True, slots=True)
class Letter:
    """A message on its way to the dead letters.

    Attributes
    ----------
    tenant, agent
        From the topic, if it could be read.
    topic, payload, digest
        The message.
    kind
        ``topic``, ``undecodable``, ``identity``, ``invalid``, ``redefined``, ``conflict``, ``dropped`` or
        ``poison``.
    reason
        For a human.
    batch_id
        Ledger row, if it has one.
    """

    tenant: str | None
    agent: str | None
    topic: str
    kind: str
    reason: str
    digest: bytes
    payload: bytes = field(repr=False)
    batch_id: int | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A dead letter in the database.

    Attributes
    ----------
    id, tenant, agent, topic, kind, reason, batch_id
        As in `Letter`.
    first_at, last_at, times
        When it first and last came, and how often.
    size
        Of the payload [bytes].
    """

    id: int
    tenant: str | None
    agent: str | None
    topic: str
    kind: str
    reason: str
    batch_id: int | None
    first_at: datetime
    last_at: datetime
    times: int
    size: int


def add(conn: Connection, letters: Sequence[Letter]) -> None:
    """Store letters in the current transaction; one that is there already is counted."""
    by_key = {(_clean(letter.topic, _LONGEST_TOPIC), letter.digest): letter for letter in letters}
    # In the order of the unique key, so that writers never wait for one another in a circle.
    ordered = sorted(by_key.items(), key=lambda item: item[0])
    times: dict[tuple[str, bytes], int] = {}
    for letter in letters:
        key = (_clean(letter.topic, _LONGEST_TOPIC), letter.digest)
        times[key] = times.get(key, 0) + 1
    for key, letter in ordered:
        parameters = {
            "tenant": letter.tenant,
            "agent": letter.agent,
            "topic": key[0],
            "kind": letter.kind,
            "reason": _clean(letter.reason, _LONGEST_REASON),
            "digest": letter.digest,
            "payload": letter.payload,
            "batch_id": letter.batch_id,
            "times": times[key],
        }
        conn.execute(_SQL["add"], parameters)


def newest(conn: Connection, limit: int, below: int | None = None) -> list[Stored]:
    """Letters by descending id, those below an id only if one is given."""
    with conn.cursor(row_factory=class_row(Stored)) as cursor:
        return cursor.execute(_SQL["newest"], {"limit": limit, "below": below}).fetchall()


def find(conn: Connection, ident: int) -> tuple[Stored, bytes] | None:
    """One letter with its payload."""
    with conn.cursor(row_factory=class_row(Stored)) as cursor:
        letter = cursor.execute(_SQL["find"], (ident,)).fetchone()
    row: tuple[Any, ...] | None = conn.execute(_SQL["payload"], (ident,)).fetchone()
    return None if letter is None or row is None else (letter, row[0])


def _clean(text: str, longest: int) -> str:
    """Text that any database takes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "�")[:longest]
