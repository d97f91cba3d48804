"""The buffer: what it does, in one transaction at a time. Threads and crashes: see `outbox`.

The parts and their invariants: `file` (tables and transactions), `handout` (to the broker), `answers` (what the
store has), `room` (limits, and what goes when there is no room), `losses` (gap records), `holding` (what waits
for the clock to be right).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edge_agent.buffer.answers import Answers
from edge_agent.buffer.file import BufferFile, Owner, connect
from edge_agent.buffer.handout import HandOut
from edge_agent.buffer.holding import Holding
from edge_agent.buffer.losses import Losses, Lost
from edge_agent.buffer.records import Applied, Draft, Record, Stats
from edge_agent.buffer.room import Room, write_batch
from edge_agent.config import Buffer
from edge_agent.signals import Signals
from protocols.birth import AnySchema
from protocols.committed import Committed
from protocols.gap import Reason
from protocols.payload import registry

_CHECKS_PER_LOG = 16
_STATS = (
    "SELECT count(*), coalesce(sum(readings), 0), min(iif(kind = 0, first_us, NULL)) "
    "FROM record INDEXED BY pending WHERE state < 2"
)
"""From the index alone: of records that wait, there may be a gigabyte."""
_HANDLED_WHEN_FULL_BYTES = 20_000_000


class Store:
    """An open buffer; all methods but `rollback` and `close` run between `begin` and `commit`.

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
    open_database
        Connects to the file.

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
        open_database: Callable[[Path], sqlite3.Connection] = connect,
    ) -> None:
        self._codec = registry.codec(codec)
        self.file = BufferFile(path, owner, now_us, settings.max_bytes, first_id, open_database)
        self._losses = Losses(self.file, signals, now_us)
        self._hand_out = HandOut(self.file, self._losses)
        self._room = Room(self.file, self._losses, settings, self._codec)
        self._answers = Answers(self.file, self._losses, self._room)
        self._holding = Holding(self.file, self._losses, self._codec)

    @property
    def epoch(self) -> str:
        """The epoch that this process writes."""
        return self.file.epoch

    @property
    def next_id(self) -> int:
        """Above every id given so far."""
        return self.file.memory.next_id

    @property
    def generation(self) -> int:
        """Which connection to the broker records are handed out to."""
        return self.file.memory.generation

    @property
    def used_bytes(self) -> int:
        """What counts against the limit [B]."""
        return self._room.used_bytes

    @property
    def transaction_is_full(self) -> bool:
        """Whether so much was written that it should be committed before more is."""
        return self.file.memory.written >= self.file.wal_bytes

    # Transactions

    def begin(self) -> None:
        """Start a transaction."""
        self.file.begin()

    def commit(self) -> None:
        """Make room if need be, and bring the transaction to the disk: when this returns, it survives a power cut."""
        if self.file.memory.unchecked:
            self._room.keep()
        self.file.commit()
        self._losses.count()

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        self._losses.forget()
        self.file.rollback()

    def close(self) -> None:
        """Close the file; an open transaction is undone."""
        self.file.close()

    # Writing

    def append_birth(self, schema: AnySchema) -> None:
        """Write a birth."""
        self.file.append_birth(schema)

    def append(self, draft: Draft) -> None:
        """Write a batch, and make room now and then."""
        self.file.memory.readings_appended += write_batch(self.file, self._codec, draft)
        if self.file.memory.unchecked >= self.file.wal_bytes // _CHECKS_PER_LOG:
            self._room.keep()

    def resume_holding(self) -> None:
        """Go on holding back what waited in an earlier process of this boot."""
        self._holding.resume()

    def hold(self) -> None:
        """Hold back what is written from now on, until `release`."""
        self._holding.begin()

    def release(self, offset_us: int | None) -> bool:
        """Let go a part of what was held back, re-timed; see `Holding.release`."""
        return self._holding.release(offset_us)

    def append_event(self, reason: Reason) -> None:
        """Write a gap record that says that something was lost, but not what."""
        self._losses.declare(reason, Lost())

    def make_room(self, reason: Reason, goal: int) -> None:
        """Come down to `goal` bytes, as far as one transaction should, and give the rest back to the disk."""
        self._room.make(reason, goal, _HANDLED_WHEN_FULL_BYTES)
        self.file.give_back(self.file.free_bytes)

    # Handing out

    def restart(self, generation: int) -> tuple[str, ...]:
        """Begin anew for a new connection: all that is pending will be handed out again. Returns the epochs."""
        return self._hand_out.restart(generation)

    def take_over(self, predecessor: Store) -> None:
        """Go on handing out to the connection that a file which this one replaces was serving."""
        self._hand_out.take_over(predecessor.file.memory)

    def grant(self, generation: int, live: int, backlog: int) -> None:
        """Let so many more records of each lane be handed out to this connection."""
        self._hand_out.grant(generation, live, backlog)

    def hand_out(self) -> list[Record]:
        """Pending records, up to what was granted, marked SENT: births, then each lane in the buffer's order."""
        return self._hand_out.hand_out()

    def load(self, ids: Iterable[int]) -> list[Record]:
        """Those of the given records that are still pending, for another attempt."""
        return self._hand_out.load(ids)

    # What the store has

    def settle(self, ids: Sequence[int]) -> None:
        """Mark records as delivered, where the broker's acknowledgement is enough."""
        self._answers.settle(ids)

    def apply(self, message: Committed, session: str) -> Applied:
        """Apply what the store says it has, by the rules in `protocols.committed`."""
        return self._answers.apply(message, session)

    # Numbers

    def stats(self) -> Stats:
        """What the file holds."""
        records, readings, oldest_us = self.file.db.execute(_STATS).fetchone()
        appended = self.file.memory.readings_appended
        return Stats(self.file.epochs(), appended, records, readings, self.used_bytes, oldest_us)
