"""Which entries of a table can be read, found by few requests: blocks, halved where they are refused.

Invariants of a search

- An entry counts as readable only if a block that holds it was read, and as a hole only if it was refused alone.
- What borders on something readable is asked first; then all blocks once, the round addresses at which makers like
  to begin, and the largest of the rest. So the edges of what is there are found by a few requests each, and when
  the requests run out, what may have been missed is small.
- A part is not asked for where the answer follows: of a refused block of which all other parts are readable, the
  last part is not, unless the block was too long for the device.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_agent.scanning.errors import OutOfRequestsError
from edge_agent.scanning.line import ILLEGAL_FUNCTION, Line
from edge_agent.scanning.units import Sighting
from protocols.modbus.limits import MAX_COILS, MAX_REGISTERS, TableName

_BLOCK: dict[TableName, int] = {
    "coil": MAX_COILS,
    "discrete": MAX_COILS,
    # Values of two registers mostly begin at even addresses, so blocks do.
    "holding": MAX_REGISTERS - 1,
    "input": MAX_REGISTERS - 1,
}
_LANDMARKS: dict[TableName, tuple[int, ...]] = {"coil": (), "discrete": (), "holding": (100, 256), "input": (100, 256)}
_LANDMARK = 2
"""Registers asked for at a round address: most values have as many."""
_LENGTH_REQUESTS = 13
"""Enough to find out how many entries a unit gives at once."""

Span = tuple[int, int]
"""First and last entry."""
_MOST_SILENT = 8
"""A unit that does not refuse but says nothing costs a time-out each time."""


@dataclass(slots=True)
class TableRanges:
    """What is known of a table.

    Attributes
    ----------
    table
        Data table.
    readable
        Spans that can be read.
    max_entries
        Most entries that the device gives by one request, where that is less than Modbus allows.
    missed
        Entries of the longest readable run that may have been missed; 0 if none was.
    notes
        What else is to be said.
    """

    table: TableName
    readable: tuple[Span, ...] = ()
    max_entries: int | None = None
    missed: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Piece:
    first: int
    last: int
    parent: int
    """Entries of the refused block that it is a part of; 0 if there is none."""
    landmark: bool = False
    """Whether it begins at a round address."""

    @property
    def count(self) -> int:
        return self.last - self.first + 1


@dataclass(slots=True)
class _Whole:
    """A refused block of which not all parts have been asked for."""

    count: int
    waiting: dict[int, _Piece]
    good: bool = True


class Search:
    """Decides which block to ask for next.

    Parameters
    ----------
    span
        What to search.
    most
        Entries of a block.
    landmarks
        Multiples of these are addresses at which something may begin.
    known
        What was read already, each by one request, in the span or not.
    """

    def __init__(self, span: Span, most: int, landmarks: Iterable[int] = (), known: Sequence[Span] = ()) -> None:
        self.longest = max((last - first + 1 for first, last in known), default=0)
        self.max_entries: int | None = None
        self._most = most
        self._pending: dict[int, _Piece] = {}
        self._by_last: dict[int, _Piece] = {}
        self._queue: list[tuple[int, int, int, int]] = []
        self._starts: set[int] = set()
        self._ends: set[int] = set()
        self._blocks: list[Span] = []
        self._refused: list[Span] = []
        self._wholes: dict[int, _Whole] = {}
        """By the first entry of the parts that are waited for."""
        self._landmarks = tuple(landmarks)
        for piece in known:
            self._add(*piece)
        here, last = span
        for known_first, known_last in (*_merged(known), (last + 1, last + 1)):
            for start in range(here, min(known_first, last + 1), most):
                self._push(_Piece(start, min(start + most, known_first, last + 1) - 1, 0))
            here = max(here, known_last + 1)

    def next(self) -> Span | None:
        """The block to ask for; None if all is known."""
        while self._queue:
            _, _, first, last = heapq.heappop(self._queue)
            piece = self._pending.get(first)
            if piece is None or piece.last != last:
                continue
            if self.max_entries is not None and piece.count > self.max_entries:
                self._drop(piece)
                self._wholes.pop(piece.first, None)
                self._halve(piece, piece.parent)
                continue
            return first, last
        return None

    def readable(self, span: Span) -> None:
        """The block was read."""
        piece = self._take(span)
        self.longest = max(self.longest, piece.count)
        self._add(*span)
        for neighbour in (self._by_last.get(piece.first - 1), self._pending.get(piece.last + 1)):
            if neighbour is not None:
                self._queue_up(neighbour)
        self._conclude(piece, good=True)

    def refused(self, span: Span) -> None:
        """The block was refused."""
        piece = self._take(span)
        self._refused.append(span)
        self._conclude(piece, good=False)
        if piece.count > 1:
            parts = (not piece.parent and self._at_landmarks(piece)) or self._halve(piece, piece.count)
            whole = _Whole(piece.count, {part.first: part for part in parts})
            self._wholes |= dict.fromkeys(whole.waiting, whole)

    @property
    def spans(self) -> tuple[Span, ...]:
        """What is readable, in order; what borders on each other is one."""
        return tuple(_merged(self._blocks))

    @property
    def missed(self) -> int:
        """Entries of the longest readable run that may be in what is not settled; 0 if all is."""
        stretches = _merged((piece.first, piece.last) for piece in self._pending.values())
        # A longer block was refused for its length.
        most = self.max_entries or self._most
        refused = sorted((span for span in self._refused if span[1] - span[0] < most), key=lambda span: span[1])
        longest = 0
        for first, last in stretches:
            # A run holds no refused block, so up to any entry it can begin only after the latest of their starts.
            before = first - 1
            for start, end in refused:
                if first <= start and end <= last:
                    longest = max(longest, end - 1 - before)
                    before = max(before, start)
            longest = max(longest, last - before)
        return longest

    @property
    def unasked(self) -> int:
        """Entries that no request was made for at all."""
        return sum(piece.count for piece in self._pending.values() if not piece.parent)

    def _add(self, first: int, last: int) -> None:
        self._blocks.append((first, last))
        self._starts.add(first)
        self._ends.add(last)

    def _halve(self, piece: _Piece, parent: int) -> list[_Piece]:
        half = (piece.count + 1) // 2
        half += half % 2 if half + half % 2 < piece.count else 0
        parts = [_Piece(piece.first, piece.first + half - 1, parent), _Piece(piece.first + half, piece.last, parent)]
        for part in parts:
            self._push(part)
        return parts

    def _at_landmarks(self, piece: _Piece) -> list[_Piece]:
        """Cut out what begins at the round addresses within a piece; nothing if there are none."""
        within = {n for step in self._landmarks for n in range(piece.first, piece.last + 1) if n % step == 0}
        if not within:
            return []
        cuts = {piece.first, *within, *(n + _LANDMARK for n in within if n + _LANDMARK <= piece.last)}
        ends = [*sorted(cuts)[1:], piece.last + 1]
        parts = [_Piece(n, end - 1, piece.count, n in within) for n, end in zip(sorted(cuts), ends, strict=True)]
        for part in parts:
            self._push(part)
        return parts

    def _conclude(self, piece: _Piece, *, good: bool) -> None:
        """Learn from the parts of a refused block."""
        whole = self._wholes.pop(piece.first, None)
        if whole is None:
            return
        del whole.waiting[piece.first]
        whole.good &= good
        if not whole.good:
            return
        if not whole.waiting:
            self.max_entries = self.longest
        elif len(whole.waiting) == 1 and self.longest >= whole.count:
            # The device gives as many at once: what was refused is in the last part.
            (last,) = whole.waiting.values()
            self.refused((last.first, last.last))

    def _push(self, piece: _Piece) -> None:
        self._pending[piece.first] = self._by_last[piece.last] = piece
        self._queue_up(piece)

    def _queue_up(self, piece: _Piece) -> None:
        borders = piece.first - 1 in self._ends or piece.last + 1 in self._starts
        urgency = 0 if borders else 1 if not piece.parent else 2 if piece.landmark else 3
        heapq.heappush(self._queue, (urgency, -piece.count, piece.first, piece.last))

    def _take(self, span: Span) -> _Piece:
        piece = self._pending[span[0]]
        self._drop(piece)
        return piece

    def _drop(self, piece: _Piece) -> None:
        del self._pending[piece.first]
        del self._by_last[piece.last]


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Spans in order; those that border on each other or overlap are one."""
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


async def lacks(line: Line, unit: Sighting, table: TableName, address: int) -> bool:
    """Whether a unit says that it has no such table.

    Raises
    ------
    OutOfRequestsError, ScanError
        As for `Line.read`.
    """
    if table == unit.table:
        return unit.answer.exception == ILLEGAL_FUNCTION
    return (await line.read_surely(unit.unit_id, table, address, 1)).exception == ILLEGAL_FUNCTION


async def search(
    line: Line, unit: Sighting, table: TableName, span: Span, known: Sequence[Span], limit: int
) -> TableRanges:
    """Search a table of a unit by at most so many requests; what was read already is not asked for.

    Raises
    ------
    ScanError
        If the connection is lost for good.
    """
    found = Search(span, _BLOCK[table], _LANDMARKS[table], known)
    notes: list[str] = []
    silent = 0
    end = line.asked + limit - _LENGTH_REQUESTS
    try:
        while line.asked < end and (block := found.next()) is not None:
            answer = await line.read_surely(unit.unit_id, table, block[0], block[1] - block[0] + 1)
            if answer.data is not None:
                found.readable(block)
                continue
            if not answer.heard:
                silent += 1
                if not await _is_there(line, unit):
                    notes.append("the unit stopped answering")
                    break
                if silent > _MOST_SILENT:
                    notes.append("the unit says nothing where others refuse, which takes too long to search")
                    break
            found.refused(block)
        else:
            if limit > _LENGTH_REQUESTS:
                found.max_entries = await _most_at_once(line, unit, table, found)
    except OutOfRequestsError:
        notes.append("no requests are left, by --max-requests")
    if found.unasked:
        notes.append(f"{found.unasked} entries were not asked for")
    return TableRanges(table, found.spans, found.max_entries, found.missed, tuple(notes))


async def _most_at_once(line: Line, unit: Sighting, table: TableName, found: Search) -> int | None:
    """How many entries the unit gives by one request, if less than Modbus allows and there is enough to tell by."""
    first, last = max(found.spans, key=lambda span: span[1] - span[0], default=(0, -1))
    good, bad = found.longest, min(last - first + 1, _BLOCK[table]) + 1
    count = bad - 1
    while good < count:
        answer = await line.read_surely(unit.unit_id, table, first, count)
        if answer.data is None:
            bad = count
        else:
            good = count
        count = (good + bad) // 2
    return good if bad <= min(last - first + 1, _BLOCK[table]) else None


async def _is_there(line: Line, unit: Sighting) -> bool:
    """Whether a unit answers what it answered before."""
    return (await line.read_surely(unit.unit_id, unit.table, unit.address, 1)).heard
