"""Gap records: what will never come, said by the transaction that deletes it.

Invariants

- A gap record names only seqs that this process has dropped itself: what is merely missing here may be in
  another copy of the buffer, which would take it for settled.
- What a gap record that was never sent says is taken up by the next one of its reason, so they stay few.
- Drops are counted once they are on disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from edge_agent.buffer import ranges
from edge_agent.buffer.file import BufferFile, unpacked
from edge_agent.buffer.records import Kind, State
from edge_agent.signals import Signals
from protocols import gap as gaps
from protocols.gap import Gap, LostPoints, Reason


class Lost:
    """Records that will never come, and what was in them."""

    def __init__(self) -> None:
        self.spans: dict[str, list[ranges.Range]] = {}
        self.points: list[LostPoints] = []
        self.records = 0
        self.readings = 0

    def add(self, epoch: str, seq: int, readings: int = 0, points: Iterable[LostPoints] = ()) -> None:
        """Add a record, so many of its readings that are lost, and whose they are."""
        self.spans.setdefault(epoch, []).append((seq, seq))
        self.points += points
        self.records += 1
        self.readings += readings


class Losses:
    """Writes gap records to a file.

    Parameters
    ----------
    file
        The file.
    signals
        Where drops are counted.
    now_us
        Plant time [µs UTC].
    """

    def __init__(self, file: BufferFile, signals: Signals, now_us: Callable[[], int]) -> None:
        self._file = file
        self._signals = signals
        self._now_us = now_us
        self._records: Counter[str] = Counter()
        self._readings: Counter[str] = Counter()

    def declare(self, reason: Reason, lost: Lost) -> None:
        """Write a gap record."""
        if reason != "retimed":
            self._records[reason] += lost.records
            self._readings[reason] += lost.readings
        spans: dict[str, list[ranges.Range]] = {epoch: list(found) for epoch, found in lost.spans.items()}
        points = list(lost.points)
        for id_, state, older in self.pending():
            if state == State.NEW and older.reason == reason:
                for epoch, dropped in older.dropped.items():
                    spans.setdefault(epoch, []).extend(dropped)
                spans.setdefault(older.key.epoch, []).append((older.key.seq, older.key.seq))
                points += older.lost
                self._file.delete([id_])
        all_dropped = {epoch: ranges.union(found) for epoch, found in spans.items()}
        record = Gap(self._file.next_key(), self._now_us(), reason, all_dropped, _merged(points))
        self._file.append(Kind.GAP, "", record.encode())

    def give_up(self, records: Sequence[tuple[int, str, int, int]]) -> None:
        """Delete records whose payload is damaged, given by id, epoch, seq and readings, and declare them.

        A damaged row may have the seq of another record. Then it is not in the index under it, and to delete it
        fails: the file is corrupt.
        """
        lost = Lost()
        for _, epoch, seq, readings in records:
            lost.add(epoch, seq, readings)
        self._file.delete([id_ for id_, *_ in records])
        self.declare("buffer_corrupt", lost)

    def pending(self) -> Iterator[tuple[int, int, Gap]]:
        """Id, state and content of the gap records that the store does not have."""
        rows = self._file.db.execute(
            "SELECT id, state, digest, payload FROM record INDEXED BY gap WHERE kind = 2 AND state < 2 ORDER BY id"
        ).fetchall()
        for id_, state, expected, packed in rows:
            payload = unpacked(packed, expected)
            if payload is not None:
                yield id_, state, gaps.decode(payload)

    def count(self) -> None:
        """What was declared is on disk."""
        for reason, records in self._records.items():
            self._signals.dropped(reason, records, self._readings[reason])
        self.forget()

    def forget(self) -> None:
        """What was declared was undone."""
        self._records.clear()
        self._readings.clear()


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
