"""Dead letters: messages that can't be stored, kept with their bytes and the reason.

A letter is there until it was stored after all, or somebody discarded it; both are recorded as an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from cloud_ingest.store import actions, sql
from cloud_ingest.store.actions import Operator
from cloud_ingest.store.pool import Connection

_SQL = sql.load("cloud_ingest.store", "letters.sql")
KINDS = (
    "topic",
    "undecodable",
    "identity",
    "invalid",
    "redefined",
    "conflict",
    "dropped",
    "poison",
    "unregistered",
    "disabled",
)
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
        One of `KINDS`.
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
        When it first and last came, and how often; a replay that fails counts like one more arrival.
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


@dataclass(frozen=True, slots=True)
class Fits:
    """Which letters; all that is given must fit.

    Attributes
    ----------
    tenant, agent, kind
        As in `Letter`.
    reason
        A part of the reason; upper and lower case are alike.
    """

    tenant: str | None = None
    agent: str | None = None
    kind: str | None = None
    reason: str | None = None


EVERY = Fits()
"""All letters."""


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


def newest(conn: Connection, limit: int, below: int | None = None, fits: Fits = EVERY) -> list[Stored]:
    """Letters by descending id, those below an id only if one is given."""
    with conn.cursor(row_factory=class_row(Stored)) as cursor:
        return cursor.execute(_SQL["newest"], asdict(fits) | {"limit": limit, "below": below}).fetchall()


def idents(conn: Connection, fits: Fits = EVERY) -> list[int]:
    """Ids of letters, ascending."""
    return [row[0] for row in conn.execute(_SQL["idents"], asdict(fits)).fetchall()]


def find(conn: Connection, ident: int) -> tuple[Stored, bytes] | None:
    """One letter with its payload."""
    with conn.cursor(row_factory=class_row(Stored)) as cursor:
        letter = cursor.execute(_SQL["find"], (ident,)).fetchone()
    row: tuple[Any, ...] | None = conn.execute(_SQL["payload"], (ident,)).fetchone()
    return None if letter is None or row is None else (letter, row[0])


def renew(conn: Connection, ident: int, kind: str, reason: str, batch_id: int | None) -> bool:
    """Note in the current transaction why a letter can still not be stored; whether it is still there."""
    parameters = {"id": ident, "kind": kind, "reason": _clean(reason, _LONGEST_REASON), "batch_id": batch_id}
    return conn.execute(_SQL["renew"], parameters).rowcount == 1


def settle(conn: Connection, ident: int, operator: Operator, what: str, outcome: dict[str, Any]) -> bool:
    """Remove a letter in the current transaction, and record why; whether it was still there.

    Parameters
    ----------
    conn, ident, operator
        Which letter, and who does it.
    what
        The action.
    outcome
        Recorded with what is known of the letter, but for its bytes.
    """
    row: tuple[Any, ...] | None = conn.execute(_SQL["remove"], (ident,)).fetchone()
    if row is None:
        return False
    actions.record(conn, operator, what, {"letter": row[0]} | outcome)
    return True


def discard(conn: Connection, ident: int, operator: Operator) -> bool:
    """Remove a letter that nobody wants, and record who and why; whether there was one. Commits."""
    with conn.transaction():
        return settle(conn, ident, operator, "dlq discard", {})


def _clean(text: str, longest: int) -> str:
    return actions.clean(text)[:longest]
