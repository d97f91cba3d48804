"""What the store says it has, applied to a file by the rules in `protocols.committed`.

Invariants

- What a committed message covers is COMMITTED; within an incarnation of the store nothing goes back from
  there, and entries older than one applied change nothing.
- Only the full answer of a restored store, to the session announced last, brings records back to life.
- What neither the store nor this file has is told, and not declared lost: another copy may still hold it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from edge_agent.buffer import ranges
from edge_agent.buffer.file import BufferFile
from edge_agent.buffer.lanes import Lanes
from edge_agent.buffer.losses import Losses
from edge_agent.buffer.records import Applied
from edge_agent.buffer.room import Room
from protocols.committed import Committed, EpochState

_log = logging.getLogger(__name__)


class Answers:
    """Applies committed messages to a file.

    Parameters
    ----------
    file
        The file.
    losses
        Gap records that are pending.
    room
        Deletes what need not be kept any longer.
    """

    def __init__(self, file: BufferFile, losses: Losses, room: Room) -> None:
        self._file = file
        self._losses = losses
        self._room = room
        self._missing_told: set[str] = set()

    def settle(self, ids: Sequence[int]) -> None:
        """Mark records as delivered, where the broker's acknowledgement is enough."""
        for id_ in ids:
            self._mark_committed(
                self._file.db.execute("SELECT id, cost FROM record WHERE state < 2 AND id = ?", (id_,))
            )
        self._room.tidy()

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
        known = self._file.meta("applied_incarnation") is not None
        if heard == self._incarnation("applied") or not known:
            self._set_incarnation("applied", heard)
            freed = self._apply_entries(message, full=full)
            self._room.tidy()
            return Applied(tuple(freed))
        if not full:
            return Applied(announce=message.incarnation)
        self._set_incarnation("applied", heard)
        revived = self._revive(message)
        freed = self._apply_entries(message, full=True)
        memory = self._file.memory
        # What came back to life lies before the cursors, so everything here is backlog now.
        memory.lanes = Lanes.behind(memory.next_id, memory.lanes.live, memory.lanes.backlog)
        return Applied(tuple(freed), revived=revived)

    def _incarnation(self, which: str) -> tuple[int, str]:
        at_us, _, name = (self._file.meta(f"{which}_incarnation") or "-1 ").partition(" ")
        return int(at_us), name

    def _set_incarnation(self, which: str, incarnation: tuple[int, str]) -> None:
        self._file.set_meta(f"{which}_incarnation", f"{incarnation[0]} {incarnation[1]}")

    def _apply_entries(self, message: Committed, *, full: bool) -> list[int]:
        freed: list[int] = []
        rows = self._file.db.execute("SELECT id, name, position, last_seq FROM epoch").fetchall()
        for epoch_id, name, position, last_seq in rows:
            entry = message.epochs.get(name)
            if entry is None or entry.position < position:
                continue
            self._file.db.execute("UPDATE epoch SET position = ? WHERE id = ?", (entry.position, epoch_id))
            for first, last in ((1, entry.through), *entry.ranges):
                freed += self._mark_committed(
                    self._file.db.execute(
                        "SELECT id, cost FROM record WHERE state < 2 AND epoch = ? AND seq BETWEEN ? AND ?",
                        (epoch_id, first, last),
                    )
                )
            if full:
                highest = self._file.memory.last_seq if epoch_id == self._file.epoch_id else last_seq
                self._tell_missing(epoch_id, name, highest, entry)
        return freed

    def _revive(self, message: Committed) -> int:
        """A restored store: what it lacks of the committed records is pending again."""
        revived = 0
        self._file.db.execute("UPDATE epoch SET position = 0")
        for epoch_id, name in self._file.db.execute("SELECT id, name FROM epoch").fetchall():
            entry = message.epochs.get(name, EpochState(0, 0))
            rows = self._file.db.execute(
                "SELECT id, seq, cost FROM record WHERE epoch = ? AND state = 2", (epoch_id,)
            ).fetchall()
            lacking = [(id_, cost) for id_, seq, cost in rows if not entry.covers(seq)]
            self._file.db.executemany(
                "UPDATE record SET state = 1, committed_us = NULL WHERE id = ?", [(id_,) for id_, _ in lacking]
            )
            self._file.memory.retained -= sum(cost for _, cost in lacking)
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
            held = self._file.db.execute(
                "SELECT count(*) FROM record WHERE epoch = ? AND seq BETWEEN ? AND ?", (epoch_id, first, last)
            ).fetchone()[0]
            missing += last - first + 1 - held
        missing -= sum(
            last - first + 1 for found in self._losses.pending() for first, last in found[2].dropped.get(name, ())
        )
        if missing > 0:
            self._missing_told.add(name)
            _log.warning("epoch %s: %d records are neither in the store nor in this buffer", name, missing)

    def _mark_committed(self, rows: Iterable[tuple[int, int]]) -> list[int]:
        """Mark pending records, given by id and cost; returns the ids."""
        found = list(rows)
        now_us = time.time_ns() // 1000
        self._file.db.executemany(
            "UPDATE record SET state = 2, committed_us = ? WHERE id = ?", [(now_us, id_) for id_, _ in found]
        )
        self._file.memory.retained += sum(cost for _, cost in found)
        return [id_ for id_, _ in found]
