"""The buffer file: SQL on one SQLite database, one transaction at a time. Threads and crashes: see `outbox`.

Invariants

- A record never changes but for its state; its digest is that of the uncompressed message.
- Seqs of an epoch have no holes, and its first record is a birth.
- A record is marked SENT on disk in the transaction that hands it out, so before it can reach the broker.
- A gap record names only seqs that this process has dropped itself: what is merely missing here may be in
  another copy of the buffer, which would take it for settled.
- Only data that are NEW are dropped for want of room, oldest first, and the same transaction writes the gap
  record that names them. Births are never dropped, and are kept as long as a record of their epoch is.
- What a committed message covers is COMMITTED; within an incarnation of the store nothing goes back from
  there, and entries older than one applied change nothing.
- Attributes in `_Memory` mirror the open transaction; `rollback` brings them back to the last commit.
"""

from __future__ import annotations

import copy
import logging
import sqlite3
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.buffer import ranges
from edge_agent.buffer.records import Applied, Draft, Kind, Record, State, Stats
from edge_agent.config import Buffer
from edge_agent.errors import OutboxOwnerError
from edge_agent.signals import Signals
from protocols import gap as gaps
from protocols.birth import Birth, Schema
from protocols.committed import Committed, EpochState
from protocols.errors import ProtocolError
from protocols.gap import Gap, LostPoints, Reason
from protocols.payload import registry
from protocols.reading import Batch, BatchKey, digest

_log = logging.getLogger(__name__)

FORMAT = "1"
ROW_OVERHEAD_BYTES = 512
"""Counted against the limit for each record, besides its payload: columns, indices, space left in pages."""
_COMPRESSION = 1
_CHUNK = 200
"""Rows handled at once when old ones are deleted or dropped."""
_KEEP_BELOW = 0.95
"""Share of the limit that a drop comes down to, so that drops are rare and their gap records few."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE epoch (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL,
    position INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE record (
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL REFERENCES epoch (id),
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    state INTEGER NOT NULL,
    detail TEXT NOT NULL,
    readings INTEGER NOT NULL,
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    committed_us INTEGER,
    digest BLOB NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (epoch, seq)
);
CREATE INDEX pending ON record (id) WHERE state < 2;
CREATE INDEX pending_seq ON record (epoch, seq) WHERE state < 2;
CREATE INDEX committed ON record (id) WHERE state = 2;
CREATE INDEX birth ON record (epoch) WHERE kind = 1;
"""


@dataclass(slots=True)
class _Memory:
    """What is known without asking the file."""

    next_id: int
    last_seq: int
    used: int
    retained: int
    readings_appended: int
    cursor: int = 0
    credit: int = 0
    generation: int = 0

    def counters(self) -> dict[str, int]:
        """What is kept in the file."""
        return {
            "readings_appended": self.readings_appended,
            "used_bytes": self.used,
            "retained_bytes": self.retained,
        }


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose buffer it is."""

    tenant: str
    agent: str


class Store:
    """An open buffer file; all methods but `rollback` and `close` run between `begin` and `commit`.

    Parameters
    ----------
    path
        The file; made if missing.
    owner
        Must be the one that the file was made for.
    settings
        Limits.
    signals
        Where drops are counted.
    now_us
        Plant time [µs UTC].
    codec
        Of new batches.
    first_id
        Ids are given from here, if the file has none higher.

    Raises
    ------
    OutboxOwnerError
        If the file is another agent's.
    sqlite3.DatabaseError
        If the file is corrupt.
    """

    def __init__(
        self,
        path: Path,
        owner: Owner,
        settings: Buffer,
        signals: Signals,
        now_us: Callable[[], int],
        codec: str,
        first_id: int = 1,
    ) -> None:
        self.path = path
        self.epoch = uuid.uuid4().hex
        self._owner = owner
        self._settings = settings
        self._signals = signals
        self._now_us = now_us
        self._codec = registry.codec(codec)
        self._fresh: dict[int, bytes] = {}
        self._drops: list[tuple[str, int, int]] = []
        self._missing_told: set[str] = set()
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
        try:
            self._open(first_id)
        except BaseException:
            self._db.close()
            raise

    def _open(self, first_id: int) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 16000000")
        db.execute("BEGIN IMMEDIATE")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            for name, value in (("format", FORMAT), ("tenant", self._owner.tenant), ("agent", self._owner.agent)):
                self.set_meta(name, value)
        found = (self.meta("format"), self.meta("tenant"), self.meta("agent"))
        wanted = (FORMAT, self._owner.tenant, self._owner.agent)
        if found != wanted:
            db.execute("ROLLBACK")
            raise OutboxOwnerError(
                f"buffer {self.path} has format, tenant and agent {found}; allowed: {wanted}, or another buffer.path"
            )
        highest = db.execute("SELECT coalesce(max(id), 0) FROM record").fetchone()[0]
        appended, used, retained = (
            int(self.meta(name) or 0) for name in ("readings_appended", "used_bytes", "retained_bytes")
        )
        self._memory = _Memory(max(first_id, highest + 1), 0, used, retained, appended)
        self._epoch_id = self.add_epoch(self.epoch, 0)
        db.execute("COMMIT")
        self._saved = copy.copy(self._memory)

    # Transactions

    def begin(self) -> None:
        """Start a transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        self._saved = copy.copy(self._memory)

    def commit(self) -> None:
        """Bring the transaction to the disk: when this returns, it survives a power cut."""
        if self._memory.last_seq != self._saved.last_seq:
            self._db.execute("UPDATE epoch SET last_seq = ? WHERE id = ?", (self._memory.last_seq, self._epoch_id))
        before = self._saved.counters()
        for name, value in self._memory.counters().items():
            if value != before[name]:
                self.set_meta(name, str(value))
        self._db.execute("COMMIT")
        self._saved = copy.copy(self._memory)
        self._fresh.clear()
        for reason, records, readings in self._drops:
            self._signals.dropped(reason, records, readings)
        self._drops.clear()

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        self._memory = copy.copy(self._saved)
        self._fresh.clear()
        self._drops.clear()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file; an open transaction is undone."""
        self._db.close()

    @property
    def next_id(self) -> int:
        """Above every id given so far."""
        return self._memory.next_id

    @property
    def generation(self) -> int:
        """Which connection to the broker records are handed out to."""
        return self._memory.generation

    # Small tables

    def meta(self, name: str) -> str | None:
        """A stored setting."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, name: str, value: str) -> None:
        """Store a setting."""
        self._db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))

    def add_epoch(self, name: str, last_seq: int) -> int:
        """Add an epoch, or raise the last seq of one that is there; returns its row id."""
        self._db.execute(
            "INSERT INTO epoch (name, last_seq) VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET last_seq = max(last_seq, excluded.last_seq)",
            (name, last_seq),
        )
        return int(self._db.execute("SELECT id FROM epoch WHERE name = ?", (name,)).fetchone()[0])

    def carry_appended(self, readings: int) -> None:
        """Go on counting appended readings from those of a file that this one replaces."""
        self._memory.readings_appended += readings

    # Writing

    def append_birth(self, schema: Schema) -> None:
        """Write a birth."""
        birth = Birth(self._next_key(), self._now_us(), schema)
        self._append(Kind.BIRTH, schema.id(), birth.encode())

    def append(self, draft: Draft) -> None:
        """Write a batch, and make room for it if need be."""
        batch = Batch(self._next_key(), draft.schema_id, draft.created_us, draft.clock, draft.base_us, draft.columns)
        offsets = [group.offsets_us for group in draft.columns.values()]
        self._append(
            Kind.DATA,
            self._codec.name,
            self._codec.encode(batch),
            len(batch),
            draft.base_us + min(map(min, offsets)),
            draft.base_us + max(map(max, offsets)),
        )
        self._memory.readings_appended += len(batch)
        if self._memory.used > self._settings.max_bytes:
            self.make_room("size_limit", self._settings.max_bytes)

    def insert(self, epoch_id: int, seq: int, row: Sequence[Any]) -> None:
        """Insert a row: kind, state, detail, readings, first, last, committed, digest, compressed payload."""
        memory = self._memory
        cost = len(row[8]) + ROW_OVERHEAD_BYTES
        self._db.execute(
            "INSERT INTO record (id, epoch, seq, kind, state, detail, readings, first_us, last_us, committed_us, "
            "digest, payload, cost) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (memory.next_id, epoch_id, seq, *row, cost),
        )
        memory.next_id += 1
        memory.used += cost
        if row[1] == State.COMMITTED:
            memory.retained += cost

    def _next_key(self) -> BatchKey:
        return BatchKey(self._owner.tenant, self._owner.agent, self.epoch, self._memory.last_seq + 1)

    def _append(
        self, kind: Kind, detail: str, payload: bytes, readings: int = 0, first_us: int = 0, last_us: int = 0
    ) -> None:
        memory = self._memory
        memory.last_seq += 1
        self._fresh[memory.next_id] = payload
        packed = zlib.compress(payload, _COMPRESSION)
        row = (kind, State.NEW, detail, readings, first_us, last_us, None, digest(payload), packed)
        self.insert(self._epoch_id, memory.last_seq, row)

    # Handing out

    def restart(self, generation: int) -> tuple[str, ...]:
        """Begin anew for a new connection: all that is pending will be handed out again. Returns the epochs."""
        self._memory.cursor = 0
        self._memory.credit = 0
        self._memory.generation = generation
        return self.epochs()

    def take_over(self, predecessor: Store) -> None:
        """Go on handing out to the connection that a file which this one replaces was serving."""
        self._memory.generation = predecessor._memory.generation
        self._memory.credit = predecessor._memory.credit
        self._saved = copy.copy(self._memory)

    def grant(self, generation: int, count: int) -> None:
        """Let so many more records be handed out to this connection."""
        if generation == self._memory.generation:
            self._memory.credit += count

    def hand_out(self) -> list[Record]:
        """Pending records in the order of the buffer, up to what was granted; marked SENT."""
        memory = self._memory
        out: list[Record] = []
        while memory.credit > 0:
            rows = self._db.execute(
                f"{_SELECT_RECORD} WHERE record.id > ? AND state < 2 ORDER BY record.id LIMIT ?",
                (memory.cursor, memory.credit),
            ).fetchall()
            if not rows:
                break
            self._db.execute(
                "UPDATE record SET state = 1 WHERE id > ? AND id <= ? AND state < 2 AND state = 0",
                (memory.cursor, rows[-1][0]),
            )
            memory.cursor = rows[-1][0]
            found = self._checked(rows)
            memory.credit -= len(found)
            out += found
        return out

    def load(self, ids: Iterable[int]) -> list[Record]:
        """Those of the given records that are still pending, for another attempt."""
        rows: list[Any] = []
        for id_ in ids:
            rows += self._db.execute(f"{_SELECT_RECORD} WHERE record.id = ? AND state < 2", (id_,))
        return self._checked(rows)

    def _checked(self, rows: Iterable[Sequence[Any]]) -> list[Record]:
        """Records with their payload; those whose payload is damaged are given up, with a gap record."""
        good: list[Record] = []
        damaged: list[Sequence[Any]] = []
        for row in rows:
            id_, epoch, seq, kind, state, detail, readings, expected = row
            payload = self._fresh.get(id_)
            if payload is None:
                payload = self._payload(id_, expected)
            if payload is None:
                damaged.append(row)
            else:
                good.append(Record(id_, epoch, seq, Kind(kind), detail, payload, readings, resent=state != State.NEW))
        if damaged:
            self._delete([row[0] for row in damaged])
            lost = _Lost()
            for row in damaged:
                lost.add(row[1], row[2], row[2], row[6])
            self._append_gap("buffer_corrupt", lost)
        return good

    def _payload(self, id_: int, expected: bytes) -> bytes | None:
        packed = self._db.execute("SELECT payload FROM record WHERE id = ?", (id_,)).fetchone()[0]
        return unpacked(packed, expected)

    # What the store has

    def settle(self, ids: Sequence[int]) -> None:
        """Mark records as delivered, where the broker's acknowledgement is enough."""
        for id_ in ids:
            self._mark_committed(self._db.execute("SELECT id, cost FROM record WHERE state < 2 AND id = ?", (id_,)))
        self._tidy()

    def apply(self, message: Committed, session: str) -> Applied:
        """Apply what the store says it has, by the rules in `protocols.committed`.

        Parameters
        ----------
        message
            What the store said.
        session
            Session that was announced last.
        """
        heard = (message.incarnation_us, message.incarnation)
        if heard < self._incarnation("newest"):
            return Applied()
        if heard > self._incarnation("newest"):
            self._set_incarnation("newest", heard)
        full = bool(message.answers) and message.answers == session
        known = self.meta("applied_incarnation") is not None
        if heard == self._incarnation("applied") or not known:
            self._set_incarnation("applied", heard)
            freed = self._apply_entries(message, full=full)
            self._tidy()
            return Applied(tuple(freed))
        if not full:
            return Applied(announce=message.incarnation)
        self._set_incarnation("applied", heard)
        revived = self._revive(message)
        freed = self._apply_entries(message, full=True)
        # What came back to life lies before the cursor.
        self._memory.cursor = 0
        return Applied(tuple(freed), revived=revived)

    def _incarnation(self, which: str) -> tuple[int, str]:
        at_us, _, name = (self.meta(f"{which}_incarnation") or "-1 ").partition(" ")
        return int(at_us), name

    def _set_incarnation(self, which: str, incarnation: tuple[int, str]) -> None:
        self.set_meta(f"{which}_incarnation", f"{incarnation[0]} {incarnation[1]}")

    def _apply_entries(self, message: Committed, *, full: bool) -> list[int]:
        freed: list[int] = []
        rows = self._db.execute("SELECT id, name, position, last_seq FROM epoch").fetchall()
        for epoch_id, name, position, last_seq in rows:
            entry = message.epochs.get(name)
            if entry is None or entry.position < position:
                continue
            self._db.execute("UPDATE epoch SET position = ? WHERE id = ?", (entry.position, epoch_id))
            for first, last in ((1, entry.through), *entry.ranges):
                freed += self._mark_committed(
                    self._db.execute(
                        "SELECT id, cost FROM record WHERE state < 2 AND epoch = ? AND seq BETWEEN ? AND ?",
                        (epoch_id, first, last),
                    )
                )
            if full:
                highest = self._memory.last_seq if epoch_id == self._epoch_id else last_seq
                self._tell_missing(epoch_id, name, highest, entry)
        return freed

    def _revive(self, message: Committed) -> int:
        """A restored store: what it lacks of the committed records is pending again."""
        revived = 0
        self._db.execute("UPDATE epoch SET position = 0")
        for epoch_id, name in self._db.execute("SELECT id, name FROM epoch").fetchall():
            entry = message.epochs.get(name, EpochState(0, 0))
            rows = self._db.execute(
                "SELECT id, seq, cost FROM record WHERE epoch = ? AND state = 2", (epoch_id,)
            ).fetchall()
            lacking = [(id_, cost) for id_, seq, cost in rows if not entry.covers(seq)]
            self._db.executemany(
                "UPDATE record SET state = 1, committed_us = NULL WHERE id = ?", [(id_,) for id_, _ in lacking]
            )
            self._memory.retained -= sum(cost for _, cost in lacking)
            revived += len(lacking)
        return revived

    def _tell_missing(self, epoch_id: int, name: str, last_seq: int, entry: EpochState) -> None:
        """Warn of what neither the store nor this buffer has.

        It is not declared lost: another copy of the buffer may still hold it, and would throw it away then.
        """
        if name in self._missing_told:
            return
        missing = 0
        for first, last in ranges.holes(((1, entry.through), *entry.ranges), 1, last_seq):
            held = self._db.execute(
                "SELECT count(*) FROM record WHERE epoch = ? AND seq BETWEEN ? AND ?", (epoch_id, first, last)
            ).fetchone()[0]
            missing += last - first + 1 - held
        missing -= sum(
            last - first + 1 for found in self._pending_gaps() for first, last in found[2].dropped.get(name, ())
        )
        if missing > 0:
            self._missing_told.add(name)
            _log.warning("epoch %s: %d records are neither in the store nor in this buffer", name, missing)

    def _mark_committed(self, rows: Iterable[tuple[int, int]]) -> list[int]:
        """Mark pending records, given by id and cost; returns the ids."""
        found = list(rows)
        now_us = time.time_ns() // 1000
        self._db.executemany(
            "UPDATE record SET state = 2, committed_us = ? WHERE id = ?", [(now_us, id_) for id_, _ in found]
        )
        self._memory.retained += sum(cost for _, cost in found)
        return [id_ for id_, _ in found]

    # Room

    def _tidy(self) -> None:
        """Delete committed records that were kept long enough, or are too many."""
        oldest_us = time.time_ns() // 1000 - round(self._settings.retain_committed_s * 1e6)
        self._delete_committed(
            lambda committed_us: (
                committed_us <= oldest_us or self._memory.retained > self._settings.retain_committed_bytes
            )
        )

    def make_room(self, reason: Reason, limit: int) -> None:
        """Come down to below `limit` bytes: committed records go first, then new data, oldest first."""
        goal = int(limit * _KEEP_BELOW)
        self._delete_committed(lambda _: self._memory.used > goal)
        lost = _Lost()
        while self._memory.used > goal:
            rows = self._db.execute(
                "SELECT record.id, epoch.name, seq, readings, first_us, last_us, cost, detail, digest, payload "
                "FROM record INDEXED BY pending JOIN epoch ON epoch.id = record.epoch "
                "WHERE state < 2 AND state = 0 AND kind = 0 ORDER BY record.id LIMIT ?",
                (_CHUNK,),
            ).fetchall()
            excess = self._memory.used - goal
            chosen = []
            for row in rows:
                if excess <= 0:
                    break
                chosen.append(row)
                excess -= row[6]
            if not chosen:
                break
            for row in chosen:
                lost.add(row[1], row[2], row[2], row[3])
                lost.points += _lost_points(row)
            self._delete([row[0] for row in chosen])
        if lost.records:
            self._append_gap(reason, lost)

    @property
    def used_bytes(self) -> int:
        """What counts against the limit [B]."""
        return self._memory.used

    def _delete_committed(self, superfluous: Callable[[int], bool]) -> None:
        """Delete committed data and gap records from the oldest on, as long as they are superfluous."""
        limit, deleted = 1, 0
        while limit:
            rows = self._db.execute(
                "SELECT id, committed_us FROM record INDEXED BY committed "
                "WHERE state = 2 AND kind <> 1 ORDER BY id LIMIT ?",
                (limit,),
            ).fetchall()
            limit = _CHUNK if rows else 0
            for id_, committed_us in rows:
                if not superfluous(committed_us):
                    limit = 0
                    break
                self._delete([id_])
                deleted += 1
        if deleted:
            self.forget_empty_epochs()

    def forget_empty_epochs(self) -> None:
        """Delete committed births of past epochs that have nothing else left, and the epochs without records."""
        births = self._db.execute(
            "SELECT id FROM record WHERE kind = 1 AND state = 2 AND epoch <> ? AND NOT EXISTS "
            "(SELECT 1 FROM record AS other WHERE other.epoch = record.epoch AND "
            "(other.kind <> 1 OR other.state <> 2))",
            (self._epoch_id,),
        ).fetchall()
        self._delete([id_ for (id_,) in births])
        self._db.execute(
            "DELETE FROM epoch WHERE id <> ? AND NOT EXISTS (SELECT 1 FROM record WHERE record.epoch = epoch.id)",
            (self._epoch_id,),
        )

    def _delete(self, ids: Iterable[int]) -> None:
        for id_ in ids:
            cost, state = self._db.execute("SELECT cost, state FROM record WHERE id = ?", (id_,)).fetchone()
            self._db.execute("DELETE FROM record WHERE id = ?", (id_,))
            self._memory.used -= cost
            if state == State.COMMITTED:
                self._memory.retained -= cost

    # Gap records

    def append_event(self, reason: Reason) -> None:
        """Write a gap record that says that something was lost, but not what."""
        self._append_gap(reason, _Lost())

    def _append_gap(self, reason: Reason, lost: _Lost) -> None:
        """Write a gap record; one of the same reason that was never sent is taken up in it, so they stay few."""
        self._drops.append((reason, lost.records, lost.readings))
        for id_, state, older in self._pending_gaps():
            if state == State.NEW and older.reason == reason:
                for epoch, spans in older.dropped.items():
                    lost.spans.setdefault(epoch, []).extend(spans)
                lost.add(older.key.epoch, older.key.seq, older.key.seq)
                lost.points += older.lost
                self._delete([id_])
        dropped = {epoch: ranges.union(spans) for epoch, spans in lost.spans.items()}
        found = Gap(self._next_key(), self._now_us(), reason, dropped, _merged(lost.points))
        self._append(Kind.GAP, "", found.encode())

    def _pending_gaps(self) -> Iterator[tuple[int, int, Gap]]:
        rows = self._db.execute(
            "SELECT id, state, digest, payload FROM record WHERE state < 2 AND kind = 2 ORDER BY id"
        ).fetchall()
        for id_, state, expected, packed in rows:
            payload = unpacked(packed, expected)
            if payload is not None:
                yield id_, state, gaps.decode(payload)

    # Numbers

    def epochs(self) -> tuple[str, ...]:
        """Epochs in the file, oldest first."""
        return tuple(name for (name,) in self._db.execute("SELECT name FROM epoch ORDER BY id"))

    def stats(self) -> Stats:
        """What the file holds."""
        records, readings, oldest_us = self._db.execute(
            "SELECT count(*), coalesce(sum(readings), 0), min(iif(kind = 0, first_us, NULL)) "
            "FROM record WHERE state < 2"
        ).fetchone()
        return Stats(self.epochs(), self._memory.readings_appended, records, readings, self._memory.used, oldest_us)


_SELECT_RECORD = (
    "SELECT record.id, epoch.name, seq, kind, state, detail, readings, digest "
    "FROM record INDEXED BY pending JOIN epoch ON epoch.id = record.epoch"
)


def unpacked(packed: bytes, expected: bytes) -> bytes | None:
    """The message, or None if it is not the one that was written."""
    try:
        payload = zlib.decompress(packed)
    except zlib.error:
        return None
    return payload if digest(payload) == expected else None


class _Lost:
    """Records that will never come, and what was in them."""

    def __init__(self) -> None:
        self.spans: dict[str, list[ranges.Range]] = {}
        self.points: list[LostPoints] = []
        self.records = 0
        self.readings = 0

    def add(self, epoch: str, first: int, last: int, readings: int = 0) -> None:
        self.spans.setdefault(epoch, []).append((first, last))
        self.records += last - first + 1
        self.readings += readings


def _lost_points(row: Sequence[Any]) -> list[LostPoints]:
    """What readings a dropped batch held; nothing if that can't be read any more."""
    _, _, _, readings, first_us, last_us, _, detail, expected, packed = row
    payload = unpacked(packed, expected)
    if payload is None:
        return []
    try:
        batch = registry.codec(detail).decode(payload)
    except ProtocolError:
        return []
    points = sorted({point for group in batch.columns.values() for point in group.points})
    return [LostPoints(batch.schema_id, tuple(points), first_us, last_us, readings)]


def _merged(items: Iterable[LostPoints]) -> tuple[LostPoints, ...]:
    """One entry per schema."""
    merged: dict[str, LostPoints] = {}
    for item in items:
        before = merged.get(item.schema_id)
        merged[item.schema_id] = (
            item
            if before is None
            else LostPoints(
                item.schema_id,
                tuple(sorted({*before.points, *item.points})),
                min(before.first_us, item.first_us),
                max(before.last_us, item.last_us),
                before.readings + item.readings,
            )
        )
    return tuple(merged.values())
