"""The ledger: which messages of an agent's buffer the database has, each exactly once.

Invariants

- The row of a message is inserted in the transaction that stores what the message says. Keys are inserted
  in order, so that writers never wait for one another in a circle.
- A key enters once: a second message with the same digest is a duplicate; with another one it is a conflict,
  and its seq is disputed and never announced again.
- After the insert the epoch's ranges are looked at once more: a duplicate may have waited on a row that was
  folded into them and removed in the meantime, and then inserts without a conflict.
- A row is removed only when it is folded and stored: the ranges know it then. Rows of parked and dead messages
  stay.
- Only committed rows are folded into an epoch's ranges; within an incarnation an epoch's `position` grows
  with every change of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

from cloud_ingest.errors import ContentionError
from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.times import to_datetime
from protocols.committed import EpochState

_SQL = sql.load("cloud_ingest.store", "ledger.sql")

MAX_SEQ = 2**62
"""Beyond any real buffer; keeps the ends of ranges within 64 bits."""
MAX_RANGES = 1000
"""Most ranges beyond the watermark that are announced of one epoch; the newest are left out."""

REMOVED_AT_ONCE = 5000
"""Rows that one statement of `remove_folded` looks at."""
REMOVAL_STATEMENTS = 10
"""Statements of one call of `remove_folded`."""

EpochKey = tuple[int, str]
"""Agent id, and epoch as 32 hex digits."""


class Kind(IntEnum):
    """What a ledger row is of."""

    DATA = 0
    BIRTH = 1
    GAP = 2


class Status(IntEnum):
    """What became of a message."""

    STORED = 0
    PARKED = 1
    DEAD = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """A message that asks to be entered.

    Attributes
    ----------
    agent_id, epoch, seq
        Its key; the epoch as 32 hex digits.
    kind, status, digest, schema_id, clock_synchronised
        As in the table.
    readings
        How many it carries, those with impossible times included.
    span_us
        Times of its first and last reading with a possible time [µs UTC].
    """

    agent_id: int
    epoch: str
    seq: int
    kind: Kind
    status: Status
    digest: bytes
    readings: int = 0
    schema_id: bytes | None = None
    span_us: tuple[int, int] | None = None
    clock_synchronised: bool | None = None

    @property
    def key(self) -> tuple[int, str, int]:
        """Agent, epoch, seq; the order of keys is that of the database."""
        return self.agent_id, self.epoch, self.seq


class Outcome(Enum):
    """What the ledger says to an entry."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    """The key is there with another digest."""
    DROPPED = "dropped"
    """A gap record said that this seq would never come."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer to one entry.

    Attributes
    ----------
    outcome
        See `Outcome`.
    batch_id
        Of the new row; 0 otherwise.
    """

    outcome: Outcome
    batch_id: int = 0


@dataclass(frozen=True, slots=True)
class Amendment:
    """Seqs of one epoch that are settled otherwise than by being stored.

    Attributes
    ----------
    agent_id, epoch
        Which epoch.
    dropped
        Inclusive ranges that will never come.
    disputed
        Seqs that came with two contents.
    """

    agent_id: int
    epoch: str
    dropped: Sequence[tuple[int, int]] = ()
    disputed: Sequence[int] = ()


def enter(conn: Connection, entries: Sequence[Entry]) -> list[Verdict]:
    """Enter messages in the current transaction.

    Parameters
    ----------
    conn
        Connection, READ COMMITTED.
    entries
        In any order; one key may stand there more than once.

    Returns
    -------
    list of Verdict
        In the order of `entries`.

    Raises
    ------
    ContentionError
        If a row vanished in between; roll back and try again.
    """
    verdicts: dict[int, Verdict] = {}
    first: dict[tuple[int, str, int], int] = {}
    for place, entry in enumerate(entries):
        first.setdefault(entry.key, place)
    keys = sorted(first)
    batch_ids = _insert(conn, [entries[first[key]] for key in keys])
    refused = _settled_before(conn, batch_ids)
    if refused:
        conn.execute(_SQL["withdraw"], {"batch_ids": [batch_ids[key] for key in refused]})
    for key, outcome in refused.items():
        verdicts[first[key]] = Verdict(outcome)
    for key, batch_id in batch_ids.items():
        verdicts.setdefault(first[key], Verdict(Outcome.NEW, batch_id))
    known = [key for key in keys if key not in batch_ids]
    for key, (digest, outcome) in _entered_before(conn, known).items():
        place = first[key]
        verdicts[place] = Verdict(outcome if digest is None else _compare(digest, entries[place].digest))
    for place, entry in enumerate(entries):
        if place not in verdicts:
            # The same key twice in one flush: the first stands, if it stands.
            original = first[entry.key]
            outcome = verdicts[original].outcome
            if outcome in (Outcome.NEW, Outcome.DUPLICATE):
                outcome = _compare(entries[original].digest, entry.digest)
            elif outcome is Outcome.CONFLICT and entries[original].digest != entry.digest:
                found = _entered_before(conn, [entry.key])[entry.key][0]
                outcome = Outcome.CONFLICT if found is None else _compare(found, entry.digest)
            verdicts[place] = Verdict(outcome)
    return [verdicts[place] for place in range(len(entries))]


def amend(conn: Connection, amendments: Iterable[Amendment]) -> None:
    """Add dropped and disputed seqs to their epochs in the current transaction."""
    merged: dict[EpochKey, tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {}
    for item in amendments:
        dropped, disputed = merged.setdefault((item.agent_id, item.epoch), ([], []))
        dropped.extend(item.dropped)
        disputed.extend((seq, seq) for seq in item.disputed)
    keys = sorted(merged)
    if keys:
        parameters = _epochs(keys) | {
            "dropped": [_multirange(merged[key][0]) for key in keys],
            "disputed": [_multirange(merged[key][1]) for key in keys],
        }
        conn.execute(_SQL["amend"], parameters)


def fold(conn: Connection, epochs: Iterable[EpochKey]) -> dict[EpochKey, EpochState]:
    """Fold what is committed into the ranges of some epochs, and return what may be announced of them.

    Run in a short transaction of its own: it locks the epochs' rows.
    """
    keys = sorted(set(epochs))
    if not keys:
        return {}
    parameters = _epochs(keys)
    conn.execute(_SQL["touch_epochs"], parameters)
    conn.execute(_SQL["lock_epochs"], parameters)
    conn.execute(_SQL["fold"], parameters)
    return states(conn, keys)


def states(conn: Connection, epochs: Sequence[EpochKey]) -> dict[EpochKey, EpochState]:
    """What may be announced of some epochs; one that the store does not know is absent."""
    found = {}
    for agent_id, epoch, position, settled in conn.execute(_SQL["states"], _epochs(epochs)).fetchall():
        ranges = [(span.lower, span.upper - 1) for span in settled]
        through = ranges.pop(0)[1] if ranges and ranges[0][0] == 1 else 0
        found[agent_id, epoch.hex] = EpochState(position, through, tuple(ranges[:MAX_RANGES]))
    return found


def unfolded(conn: Connection) -> list[EpochKey]:
    """Epochs with rows that nobody has folded, and hence announced, yet."""
    return [(agent_id, epoch.hex) for agent_id, epoch in conn.execute(_SQL["unfolded"]).fetchall()]


def remove_folded(conn: Connection, keep_s: float, after: int = 0) -> tuple[int, int]:
    """Remove rows of stored messages that are folded and were received longer ago than `keep_s` [s].

    Parameters
    ----------
    conn
        A connection in autocommit mode: each statement is a transaction, of bounded work.
    keep_s
        How long rows stay.
    after
        Batch id to go on from: what the last call returned.

    Returns
    -------
    removed, after
        How many rows went, and where to go on; 0 if nothing older is left.
    """
    removed = 0
    for _ in range(REMOVAL_STATEMENTS):
        parameters = {"keep_s": keep_s, "after": after, "limit": REMOVED_AT_ONCE}
        with conn.transaction():
            # Tidying waits for nobody, so that it holds up no stop.
            conn.execute("SET LOCAL lock_timeout = '1s'")
            count, last, reached_new = conn.execute(_SQL["remove"], parameters).fetchall()[0]
        removed += count
        if last is None or reached_new:
            return removed, 0
        after = last
    return removed, after


def set_status(conn: Connection, batch_id: int, status: Status, span_us: tuple[int, int] | None) -> None:
    """Note what became of a parked message."""
    first_at, last_at = (None, None) if span_us is None else map(to_datetime, span_us)
    parameters = {
        "batch_id": batch_id,
        "status": int(status),
        "first_at": first_at,
        "last_at": last_at,
    }
    conn.execute(_SQL["set_status"], parameters)


def revive(conn: Connection, entry: Entry) -> int | None:
    """Let a dead message be what `entry` says, in the current transaction.

    Returns
    -------
    int or None
        Its batch id; None if there is no dead message with this key and digest, or none any more.
    """
    row = conn.execute(_SQL["revive"], _of_one(entry)).fetchone()
    return None if row is None else int(row[0])


def holds(conn: Connection, entry: Entry) -> bool:
    """Whether there is a row with the key and the digest of an entry."""
    return conn.execute(_SQL["holds"], _of_one(entry)).fetchone() is not None


def _of_one(entry: Entry) -> dict[str, Any]:
    first_at, last_at = (None, None) if entry.span_us is None else map(to_datetime, entry.span_us)
    return {
        "agent_id": entry.agent_id,
        "epoch": UUID(entry.epoch),
        "seq": entry.seq,
        "digest": entry.digest,
        "status": int(entry.status),
        "readings": entry.readings,
        "schema_id": entry.schema_id,
        "first_at": first_at,
        "last_at": last_at,
        "clock_synchronised": entry.clock_synchronised,
    }


def _insert(conn: Connection, entries: list[Entry]) -> dict[tuple[int, str, int], int]:
    """Insert sorted entries; batch ids of those that were new."""
    if not entries:
        return {}
    spans = [entry.span_us for entry in entries]
    parameters: dict[str, Any] = {
        "agent_id": _array(entry.agent_id for entry in entries),
        "epoch": _array(entry.epoch for entry in entries),
        "seq": _array(entry.seq for entry in entries),
        "kind": _array(int(entry.kind) for entry in entries),
        "status": _array(int(entry.status) for entry in entries),
        "digest": _array(_octets(entry.digest) for entry in entries),
        "readings": _array(entry.readings for entry in entries),
        "schema_id": _array(None if entry.schema_id is None else _octets(entry.schema_id) for entry in entries),
        "first_at": _array(None if span is None else to_datetime(span[0]).isoformat() for span in spans),
        "last_at": _array(None if span is None else to_datetime(span[1]).isoformat() for span in spans),
        "clock_synchronised": _array(entry.clock_synchronised for entry in entries),
    }
    rows = conn.execute(_SQL["insert"], parameters).fetchall()
    return {(agent_id, epoch.hex, seq): batch_id for batch_id, agent_id, epoch, seq in rows}


def _settled_before(
    conn: Connection, batch_ids: dict[tuple[int, str, int], int]
) -> dict[tuple[int, str, int], Outcome]:
    """Which keys the ranges of their epochs hold already."""
    if not batch_ids:
        return {}
    rows = conn.execute(_SQL["settled_before"], _keys(list(batch_ids))).fetchall()
    return {
        (agent_id, epoch.hex, seq): Outcome.DUPLICATE if committed else Outcome.DROPPED
        for agent_id, epoch, seq, committed in rows
    }


def _entered_before(
    conn: Connection, keys: list[tuple[int, str, int]]
) -> dict[tuple[int, str, int], tuple[bytes | None, Outcome]]:
    """Digests of keys that are there; for rows removed since, what the ranges say."""
    if not keys:
        return {}
    rows = conn.execute(_SQL["entered_before"], _keys(keys)).fetchall()
    found: dict[tuple[int, str, int], tuple[bytes | None, Outcome]] = {
        (agent_id, epoch.hex, seq): (digest, Outcome.DUPLICATE) for agent_id, epoch, seq, digest in rows
    }
    gone = [key for key in keys if key not in found]
    if gone:
        settled = _settled_before(conn, dict.fromkeys(gone, 0))
        if len(settled) < len(gone):
            raise ContentionError(f"ledger rows vanished under the transaction: {len(gone) - len(settled)}")
        found |= {key: (None, outcome) for key, outcome in settled.items()}
    return found


def _compare(known: bytes, digest: bytes) -> Outcome:
    return Outcome.DUPLICATE if known == digest else Outcome.CONFLICT


def _keys(keys: Sequence[tuple[int, str, int]]) -> dict[str, Any]:
    return {
        "agent_id": _array(agent_id for agent_id, _, _ in keys),
        "epoch": _array(epoch for _, epoch, _ in keys),
        "seq": _array(seq for _, _, seq in keys),
    }


def _array(items: Iterable[object]) -> str:
    """Array of things without blanks, quotes and commas as PostgreSQL writes it: its adapter takes far longer."""
    return "{" + ",".join(["NULL" if item is None else str(item) for item in items]) + "}"


def _octets(octets: bytes) -> str:
    """A bytea within an array."""
    return "\\\\x" + octets.hex()


def _epochs(keys: Sequence[EpochKey]) -> dict[str, Any]:
    return {"agent_id": [agent_id for agent_id, _ in keys], "epoch": [UUID(epoch) for _, epoch in keys]}


def _multirange(spans: Iterable[tuple[int, int]]) -> str:
    return "{" + ",".join(f"[{first},{last}]" for first, last in spans) + "}"
