"""The buffer file: one SQLite database with its tables, one transaction at a time.

Invariants

- SQLite in WAL mode with ``synchronous=FULL``: when `commit` returns, the transaction survives a power cut.
- A record never changes but for its state and how far it was thinned; its digest is that of the message.
- Every seq of an epoch is given once, in this process, and has a record or is named in a gap record.
- The first record of an epoch is a birth, and every schema that data of an epoch refer to has a birth in it.
- Free pages are used before the file grows, and can be given back to the file system.
- At the start, and after a transaction that failed, the WAL begins anew before anything is written. So a commit
  that another one follows in it was confirmed; see `wal`.
- `memory` mirrors the open transaction; `rollback` brings it back to the last commit.
"""

from __future__ import annotations

import copy
import sqlite3
import uuid
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.buffer.lanes import Lanes
from edge_agent.buffer.records import Kind, Level, State
from edge_agent.errors import OutboxOwnerError
from protocols import birth as births
from protocols import gap as gaps
from protocols.birth import AnySchema
from protocols.errors import ProtocolError
from protocols.payload import registry
from protocols.reading import BatchKey, digest

FORMAT = "1"
ROW_OVERHEAD_BYTES = 512
"""About what a record takes besides its payload: columns, indices, space left in pages."""
_COMPRESSION = 1
_PAGE_BYTES = 4096
_SMALLEST_WAL_PAGES, _LARGEST_WAL_PAGES = 32, 1000
_WAL_SHARE = 16

_TABLES = """
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
    level INTEGER NOT NULL DEFAULT 0,
    UNIQUE (epoch, seq)
);
CREATE INDEX pending ON record (id, kind, readings, first_us) WHERE state < 2;
CREATE INDEX pending_seq ON record (epoch, seq) WHERE state < 2;
CREATE INDEX committed ON record (id) WHERE state = 2;
CREATE INDEX birth ON record (epoch) WHERE kind = 1;
CREATE INDEX droppable ON record (level, id) WHERE state = 0 AND kind = 0;
CREATE INDEX gap ON record (id) WHERE kind = 2;
"""
_FROM_FIRST_VERSION = """
ALTER TABLE record ADD COLUMN level INTEGER NOT NULL DEFAULT 0;
DROP INDEX pending;
CREATE INDEX pending ON record (id, kind, readings, first_us) WHERE state < 2;
CREATE INDEX droppable ON record (level, id) WHERE state = 0 AND kind = 0;
CREATE INDEX gap ON record (id) WHERE kind = 2;
"""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose buffer it is."""

    tenant: str
    agent: str


@dataclass(slots=True)
class Memory:
    """What is known without asking the file.

    Attributes
    ----------
    next_id, last_seq
        Id of the next record; seq of the last one of this epoch.
    retained
        About what committed records take [B].
    readings_appended
        Ever written.
    lanes, generation
        What was handed out, to which connection.
    written
        About what was written in this transaction [B].
    unchecked
        About what was written since room was made last [B].
    held_from
        Records with this id or a higher one are not handed out yet; None: all may be.
    """

    next_id: int
    last_seq: int
    retained: int
    readings_appended: int
    lanes: Lanes
    generation: int = 0
    written: int = 0
    unchecked: int = 0
    held_from: int | None = None

    def counters(self) -> dict[str, int]:
        """What is kept in the file."""
        return {"readings_appended": self.readings_appended, "retained_bytes": self.retained}


def connect(path: Path) -> sqlite3.Connection:
    """Open a database of SQLite."""
    return sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)


def wal_pages(max_bytes: int) -> int:
    """Pages that gather in the WAL before they go to the database."""
    return min(max(max_bytes // _WAL_SHARE // _PAGE_BYTES, _SMALLEST_WAL_PAGES), _LARGEST_WAL_PAGES)


class BufferFile:
    """An open file; what reads or writes runs between `begin` and `commit`.

    Parameters
    ----------
    path
        The file; made if missing.
    owner
        Must be the one that it was made for.
    now_us
        Plant time [µs UTC].
    max_bytes
        Its limit; decides how large the WAL becomes.
    first_id
        Ids are given from here, if the file has none higher.
    open_database
        Connects to it.

    Raises
    ------
    OutboxOwnerError
        If the file is another agent's.
    sqlite3.DatabaseError
        If it is corrupt or can't be used.
    """

    def __init__(
        self,
        path: Path,
        owner: Owner,
        now_us: Callable[[], int],
        max_bytes: int,
        first_id: int = 1,
        open_database: Callable[[Path], sqlite3.Connection] = connect,
    ) -> None:
        self.path = path
        self.epoch = uuid.uuid4().hex
        self.fresh: dict[int, bytes] = {}
        """Payloads written in this transaction, by id."""
        self.wal_pages = wal_pages(max_bytes)
        self._owner = owner
        self._now_us = now_us
        self._schemas: dict[str, AnySchema] = {}
        self._wal_is_stale = False
        self.db = open_database(path)
        try:
            self._open(first_id)
        except BaseException:
            self.db.close()
            raise

    def _open(self, first_id: int) -> None:
        db = self.db
        # Only a file without tables takes this on; it must come first.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        db.execute("PRAGMA synchronous = FULL")
        # Freed pages are not overwritten, which would double what is written.
        db.execute("PRAGMA secure_delete = OFF").fetchall()
        db.execute(f"PRAGMA wal_autocheckpoint = {self.wal_pages}").fetchall()
        db.execute(f"PRAGMA journal_size_limit = {self.wal_pages * _PAGE_BYTES}").fetchall()
        self.restart_wal()
        db.execute("BEGIN IMMEDIATE")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._execute_all(_TABLES)
            for name, value in (("format", FORMAT), ("tenant", self._owner.tenant), ("agent", self._owner.agent)):
                self.set_meta(name, value)
        found = (self.meta("format"), self.meta("tenant"), self.meta("agent"))
        wanted = (FORMAT, self._owner.tenant, self._owner.agent)
        if found != wanted:
            db.execute("ROLLBACK")
            raise OutboxOwnerError(
                f"buffer {self.path} has format, tenant and agent {found}; allowed: {wanted}, or another buffer.path"
            )
        if not db.execute("SELECT count(*) FROM pragma_table_info('record') WHERE name = 'level'").fetchone()[0]:
            self._execute_all(_FROM_FIRST_VERSION)
        highest = db.execute("SELECT coalesce(max(id), 0) FROM record").fetchone()[0]
        appended, retained = (int(self.meta(name) or 0) for name in ("readings_appended", "retained_bytes"))
        next_id = max(first_id, highest + 1)
        self.memory = Memory(next_id, 0, retained, appended, Lanes.behind(next_id))
        self.epoch_id = self.add_epoch(self.epoch, 0)
        db.execute("COMMIT")
        self._saved = copy.copy(self.memory)

    def _execute_all(self, script: str) -> None:
        for statement in script.split(";"):
            if statement.strip():
                self.db.execute(statement)

    # Transactions

    def begin(self) -> None:
        """Start a transaction."""
        if self._wal_is_stale:
            self.restart_wal()
        self.db.execute("BEGIN IMMEDIATE")
        self._saved = copy.copy(self.memory)

    def commit(self) -> None:
        """Bring the transaction to the disk: when this returns, it survives a power cut."""
        if self.memory.last_seq != self._saved.last_seq:
            self.db.execute("UPDATE epoch SET last_seq = ? WHERE id = ?", (self.memory.last_seq, self.epoch_id))
        before = self._saved.counters()
        for name, value in self.memory.counters().items():
            if value != before[name]:
                self.set_meta(name, str(value))
        self.db.execute("COMMIT")
        self.memory.written = 0
        self._saved = copy.copy(self.memory)
        self.fresh.clear()

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        self.memory = copy.copy(self._saved)
        self.fresh.clear()
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        self._wal_is_stale = True

    def settle_memory(self) -> None:
        """What `memory` says now is what a rollback brings back."""
        self._saved = copy.copy(self.memory)

    def restart_wal(self) -> None:
        """Bring what was committed to the database file, and begin the WAL anew."""
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._wal_is_stale = False

    def close(self) -> None:
        """Close the file; an open transaction is undone."""
        self.db.close()

    # Size

    @property
    def file_bytes(self) -> int:
        """Size of the database file once the WAL is in it [B]."""
        return int(self.db.execute("PRAGMA page_count").fetchone()[0]) * _PAGE_BYTES

    @property
    def free_bytes(self) -> int:
        """What of that is free [B]."""
        return int(self.db.execute("PRAGMA freelist_count").fetchone()[0]) * _PAGE_BYTES

    @property
    def wal_bytes(self) -> int:
        """About what the WAL takes beside the database file [B]."""
        return self.wal_pages * _PAGE_BYTES

    def give_back(self, most: int) -> None:
        """Cut free pages off the end of the file, so many bytes at most and a WAL's worth."""
        pages = min(-(-most // _PAGE_BYTES), self.free_bytes // _PAGE_BYTES, self.wal_pages)
        if pages <= 0:
            return
        for _ in range(pages):
            # One step is one page, and the driver makes one step only of a statement without columns.
            self.db.execute("PRAGMA incremental_vacuum(1)")
        # The file is cut when the WAL is brought to it.
        self._wal_is_stale = True

    # Small tables

    def meta(self, name: str) -> str | None:
        """A stored setting."""
        row = self.db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, name: str, value: str) -> None:
        """Store a setting."""
        self.db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))

    def add_epoch(self, name: str, last_seq: int) -> int:
        """Add an epoch, or raise the last seq of one that is there; returns its row id."""
        self.db.execute(
            "INSERT INTO epoch (name, last_seq) VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET last_seq = max(last_seq, excluded.last_seq)",
            (name, last_seq),
        )
        return int(self.db.execute("SELECT id FROM epoch WHERE name = ?", (name,)).fetchone()[0])

    def epochs(self) -> tuple[str, ...]:
        """Epochs in the file, oldest first."""
        return tuple(name for (name,) in self.db.execute("SELECT name FROM epoch ORDER BY id").fetchall())

    # Records

    def next_key(self) -> BatchKey:
        """Identity of the next record."""
        return BatchKey(self._owner.tenant, self._owner.agent, self.epoch, self.memory.last_seq + 1)

    def append(
        self,
        kind: Kind,
        detail: str,
        payload: bytes,
        readings: int = 0,
        span_us: tuple[int, int] = (0, 0),
        *,
        level: Level = Level.RAW,
        place: int | None = None,
    ) -> None:
        """Write a record under the next key, at the end or in the place of one that was deleted."""
        memory = self.memory
        memory.last_seq += 1
        if place is None:
            place = memory.next_id
        self.fresh[place] = payload
        packed = zlib.compress(payload, _COMPRESSION)
        row = (kind, State.NEW, detail, readings, *span_us, None, digest(payload), packed)
        self.insert(self.epoch_id, memory.last_seq, row, level, place)

    def insert(
        self, epoch_id: int, seq: int, row: Sequence[object], level: Level = Level.RAW, place: int | None = None
    ) -> None:
        """Insert a row: kind, state, detail, readings, first, last, committed, digest, compressed payload."""
        memory = self.memory
        packed = row[8]
        assert isinstance(packed, bytes)
        cost = len(packed) + ROW_OVERHEAD_BYTES
        if place is None:
            place = memory.next_id
        self.db.execute(
            "INSERT INTO record (id, epoch, seq, kind, state, detail, readings, first_us, last_us, committed_us, "
            "digest, payload, cost, level) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (place, epoch_id, seq, *row, cost, level),
        )
        memory.next_id = max(memory.next_id, place + 1)
        memory.written += cost
        memory.unchecked += cost
        if row[1] == State.COMMITTED:
            memory.retained += cost

    def delete(self, ids: Iterable[int]) -> None:
        """Delete records."""
        for id_ in ids:
            cost, state = self.db.execute("SELECT cost, state FROM record WHERE id = ?", (id_,)).fetchone()
            self.db.execute("DELETE FROM record WHERE id = ?", (id_,))
            self.fresh.pop(id_, None)
            if state == State.COMMITTED:
                self.memory.retained -= cost

    # Births

    def append_birth(self, schema: AnySchema, place: int | None = None) -> None:
        """Write a birth, at the end or in the place of one that was deleted."""
        self._schemas[schema.id()] = schema
        self.append(Kind.BIRTH, schema.id(), births.encode(self.next_key(), self._now_us(), schema), place=place)
        self.memory.lanes = self.memory.lanes.with_births()

    def ensure_birth(self, schema: AnySchema) -> None:
        """Write a birth, unless this epoch has it."""
        known = self.db.execute(
            "SELECT count(*) FROM record INDEXED BY birth WHERE epoch = ? AND kind = 1 AND detail = ?",
            (self.epoch_id, schema.id()),
        ).fetchone()[0]
        if not known:
            self.append_birth(schema)

    def schema(self, schema_id: str) -> AnySchema | None:
        """A schema that has a birth here; None if there is none that can be read."""
        if schema_id not in self._schemas:
            rows = self.db.execute(
                "SELECT digest, payload FROM record INDEXED BY birth WHERE kind = 1 AND detail = ?", (schema_id,)
            ).fetchall()
            for expected, packed in rows:
                payload = unpacked(packed, expected)
                try:
                    found = None if payload is None else births.decode(payload).schema
                except ProtocolError:
                    continue
                if found is not None:
                    self._schemas[schema_id] = found
                    break
        return self._schemas.get(schema_id)


def unpacked(packed: bytes, expected: bytes) -> bytes | None:
    """The message, or None if it is not the one that was written."""
    try:
        payload = zlib.decompress(packed)
    except zlib.error:
        return None
    return payload if digest(payload) == expected else None


def identity(kind: int, detail: str, payload: bytes) -> tuple[str, int] | None:
    """Epoch and seq that a message itself names; None if it names none."""
    try:
        if kind == Kind.DATA:
            return registry.codec(detail).identity(payload)
        key = births.decode(payload).key if kind == Kind.BIRTH else gaps.decode(payload).key
    except ProtocolError:
        return None
    return key.epoch, key.seq
