"""Making room, so that the buffer stays below its limit and the file system above its floor.

Invariants

- Committed records go first. Of the others only data that are NEW are touched: what was handed out may be
  with the store, and a gap record would deny it. Births and gap records stay.
- The order is: thin gauges and states, then take them out, then drop counters; each from the oldest on, and
  the next only when there is nothing left of the one before. The same transaction writes the gap record.
- What stays of a batch takes its place in the buffer, under an identity of its own.
- The limit is `max_bytes`, or less where the file system has less free than its floor: then the buffer comes
  down by what is lacking, though not below `LEAST_BYTES` besides the log, and the file is cut.
- It is done piece by piece as batches are written, so after the limit was lowered it takes some to come down.

The file and its log together stay below the limit, but for twice the largest batch: room is kept for the log
(a sixteenth of the limit, 128 kB to 4 MB) and for what one transaction adds, which is a little more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from edge_agent.buffer import disk
from edge_agent.buffer.file import BufferFile, unpacked
from edge_agent.buffer.losses import Losses, Lost
from edge_agent.buffer.records import Draft, Kind, Level
from edge_agent.buffer.thinning import Thinned, thinned
from edge_agent.config import Buffer
from protocols.errors import ProtocolError
from protocols.gap import LostPoints, Reason
from protocols.payload import registry
from protocols.payload.base import Codec
from protocols.reading import Batch

LEAST_BYTES = 1_000_000
"""What the buffer may take besides its log even below the floor, so that what is measured now can pass."""
_CHUNK = 100
"""Rows handled at once."""
_HANDLED_PER_WRITTEN = 4
"""How much is handled at once for what was written. Each record is handled three times at most."""
_STEP_SHARE, _STEP_BYTES = 0.05, 1_000_000
"""How far below the limit it comes down, so that it is not done for every batch."""
_SELECT = (
    "SELECT record.id, epoch.name, seq, readings, first_us, last_us, cost, detail, digest, payload "
    "FROM record INDEXED BY droppable JOIN epoch ON epoch.id = record.epoch "
    "WHERE state = 0 AND kind = 0 AND level = ? ORDER BY level, record.id LIMIT ?"
)
_Row = Sequence[Any]


class Room:
    """Makes room in a file.

    Parameters
    ----------
    file
        The file.
    losses
        Where it is said what goes.
    settings
        Limits.
    codec
        Of what stays.
    """

    def __init__(self, file: BufferFile, losses: Losses, settings: Buffer, codec: Codec) -> None:
        self._file = file
        self._losses = losses
        self._settings = settings
        self._codec = codec
        self._reserve = 5 * file.wal_bytes // 2

    @property
    def used_bytes(self) -> int:
        """What counts against the limit [B]."""
        return self._file.file_bytes - self._file.free_bytes + self._reserve

    def limit(self) -> tuple[int, Reason]:
        """What the buffer may take now [B], and what is to be said of what goes beyond."""
        free, total = disk.space(self._file.path)
        spare = free - disk.floor_bytes(self._settings.free_space_floor_bytes, total)
        most = self._settings.max_bytes
        allowed = max(LEAST_BYTES + self._reserve, disk.taken(self._file.path) + spare)
        return (most, "size_limit") if most <= allowed else (allowed, "disk_full")

    def keep(self) -> None:
        """Make room, as far as it is done at once: in proportion to what was written since the last time."""
        memory = self._file.memory
        limit, reason = self.limit()
        if self.used_bytes > limit:
            budget = _HANDLED_PER_WRITTEN * memory.unchecked + self._file.wal_bytes // 4
            self.make(reason, limit - min(round(limit * _STEP_SHARE), _STEP_BYTES), budget)
        excess = self._file.file_bytes + self._reserve - limit
        if excess > 0:
            self._file.give_back(excess)
        memory.unchecked = 0

    def make(self, reason: Reason, goal: int, budget: int) -> None:
        """Come down to `goal` bytes, as far as handling records of so many bytes brings it."""
        self._delete_committed(lambda _: self.used_bytes > goal)
        for level in Level:
            while budget > 0 and (excess := self.used_bytes - goal) > 0:
                rows = self._oldest(level)
                if not rows:
                    break
                budget -= sum(row[6] for row in rows)
                if level == Level.ESSENTIAL:
                    self._drop(reason, rows, excess)
                else:
                    self._thin(reason, rows, Level(level + 1))

    def tidy(self) -> None:
        """Delete committed records that were kept long enough, or are too many."""
        oldest_us = time.time_ns() // 1000 - round(self._settings.retain_committed_s * 1e6)
        most = self._settings.retain_committed_bytes
        self._delete_committed(lambda committed_us: committed_us <= oldest_us or self._file.memory.retained > most)

    # Data never sent

    def _oldest(self, level: Level) -> list[_Row]:
        """Oldest rows that may be touched, not more than one transaction should write again."""
        found: list[_Row] = []
        size = 0
        for row in self._file.db.execute(_SELECT, (level, _CHUNK)):
            size += row[6]
            if found and size > self._file.wal_bytes:
                break
            found.append(row)
        return found

    def _drop(self, reason: Reason, rows: Sequence[_Row], excess: int) -> None:
        lost = Lost()
        dropped = []
        for row in rows:
            if excess <= 0:
                break
            excess -= row[6]
            dropped.append(row[0])
            lost.add(row[1], row[2], row[3], _all_lost(row))
        self._file.delete(dropped)
        self._losses.declare(reason, lost)

    def _thin(self, reason: Reason, rows: Sequence[_Row], level: Level) -> None:
        readable: list[tuple[_Row, Batch]] = []
        damaged: list[_Row] = []
        for row in rows:
            batch = _batch(row)
            if batch is None:
                damaged.append(row)
            else:
                readable.append((row, batch))
        if damaged:
            self._losses.give_up([(row[0], row[1], row[2], row[3]) for row in damaged])
        lost = Lost()
        for part in thinned([batch for _, batch in readable], self._file.schema, level):
            self._put_back(part, [readable[position][0] for position in part.sources], level, lost)
        if lost.records:
            self._losses.declare("thinned" if level == Level.THINNED else reason, lost)

    def _put_back(self, part: Thinned, rows: Sequence[_Row], level: Level, lost: Lost) -> None:
        ids = [row[0] for row in rows]
        if not part.lost:
            self._file.db.executemany("UPDATE record SET level = ? WHERE id = ?", [(level, id_) for id_ in ids])
            return
        self._file.delete(ids)
        for row in rows:
            lost.add(row[1], row[2])
        lost.points += part.lost
        lost.readings += sum(item.readings for item in part.lost)
        if part.draft is not None:
            schema = self._file.schema(part.draft.schema_id)
            if schema is not None:
                self._file.ensure_birth(schema)
            write_batch(self._file, self._codec, part.draft, level, ids[-1])

    # Committed records

    def _delete_committed(self, superfluous: Callable[[int], bool]) -> None:
        """Delete committed data and gap records from the oldest on, as long as they are superfluous."""
        limit, deleted = 1, 0
        while limit:
            rows = self._file.db.execute(
                "SELECT id, committed_us FROM record INDEXED BY committed "
                "WHERE state = 2 AND kind <> 1 ORDER BY id LIMIT ?",
                (limit,),
            ).fetchall()
            limit = _CHUNK if rows else 0
            for id_, committed_us in rows:
                if not superfluous(committed_us):
                    limit = 0
                    break
                self._file.delete([id_])
                deleted += 1
        if deleted:
            self._forget_empty_epochs()

    def _forget_empty_epochs(self) -> None:
        """Delete committed births of past epochs that have nothing else left, and the epochs without records."""
        births = self._file.db.execute(
            "SELECT id FROM record INDEXED BY birth WHERE kind = 1 AND state = 2 AND epoch <> ? AND NOT EXISTS "
            "(SELECT 1 FROM record AS other WHERE other.epoch = record.epoch AND "
            "(other.kind <> 1 OR other.state <> 2))",
            (self._file.epoch_id,),
        ).fetchall()
        self._file.delete([id_ for (id_,) in births])
        self._file.db.execute(
            "DELETE FROM epoch WHERE id <> ? AND NOT EXISTS (SELECT 1 FROM record WHERE record.epoch = epoch.id)",
            (self._file.epoch_id,),
        )


def write_batch(
    file: BufferFile, codec: Codec, draft: Draft, level: Level = Level.RAW, place: int | None = None
) -> int:
    """Write a batch under the next key; returns how many readings are in it."""
    batch = Batch(file.next_key(), draft.schema_id, draft.created_us, draft.clock, draft.base_us, draft.columns)
    offsets = [group.offsets_us for group in draft.columns.values()]
    span_us = draft.base_us + min(map(min, offsets)), draft.base_us + max(map(max, offsets))
    file.append(Kind.DATA, codec.name, codec.encode(batch), len(batch), span_us, level=level, place=place)
    return len(batch)


def _batch(row: _Row) -> Batch | None:
    *_, codec, expected, packed = row
    return read_batch(codec, expected, packed)


def read_batch(codec: str, expected: bytes, packed: bytes) -> Batch | None:
    """The batch in a record; None if it can't be read any more."""
    payload = unpacked(packed, expected)
    if payload is None:
        return None
    try:
        return registry.codec(codec).decode(payload)
    except ProtocolError:
        return None


def _all_lost(row: _Row) -> list[LostPoints]:
    """What readings a batch held; nothing if that can't be read any more."""
    batch = _batch(row)
    if batch is None:
        return []
    points = sorted({point for group in batch.columns.values() for point in group.points})
    return [LostPoints(batch.schema_id, tuple(points), row[4], row[5], row[3])]
