"""Handing records out to one connection, in two lanes.

Invariants

- A record is marked SENT on disk in the transaction that hands it out, so before it can reach the broker.
- What was in the buffer when the connection began is the backlog, what comes later is live; each lane goes in
  the order of the buffer, as far as it was granted. So a long backlog does not hold up what is measured now.
- Pending births go before all data, whatever their lane: data whose birth has not come wait in the cloud.
- What waits for the clock (`holding`) is not handed out.
- On one connection no record is handed out twice, unless a restored store lacks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from edge_agent.buffer.file import BufferFile, Memory, identity, unpacked
from edge_agent.buffer.lanes import Lanes
from edge_agent.buffer.losses import Losses
from edge_agent.buffer.records import Kind, Record, State

_COLUMNS = "SELECT record.id, epoch.name, seq, kind, state, detail, readings, digest FROM record "
_SELECT = f"{_COLUMNS} INDEXED BY pending JOIN epoch ON epoch.id = record.epoch"
_SELECT_BIRTH = f"{_COLUMNS} INDEXED BY birth JOIN epoch ON epoch.id = record.epoch"


class HandOut:
    """Hands out the records of a file.

    Parameters
    ----------
    file
        The file.
    losses
        Where records are declared that can't be read any more.
    """

    def __init__(self, file: BufferFile, losses: Losses) -> None:
        self._file = file
        self._losses = losses

    def restart(self, generation: int) -> tuple[str, ...]:
        """Begin anew for a new connection: all that is pending will be handed out again. Returns the epochs."""
        self._file.memory.lanes = Lanes.behind(self._file.memory.next_id)
        self._file.memory.generation = generation
        return self._file.epochs()

    def take_over(self, predecessor: Memory) -> None:
        """Go on handing out to the connection that a file which this one replaces was serving."""
        self._file.memory.generation = predecessor.generation
        lanes = predecessor.lanes
        self._file.memory.lanes = Lanes.behind(self._file.memory.next_id, live=lanes.live, backlog=lanes.backlog)
        self._file.settle_memory()

    def grant(self, generation: int, live: int, backlog: int) -> None:
        """Let so many more records of each lane be handed out to this connection."""
        if generation == self._file.memory.generation:
            lanes = self._file.memory.lanes
            self._file.memory.lanes = replace(lanes, live=lanes.live + live, backlog=lanes.backlog + backlog)

    def hand_out(self) -> list[Record]:
        """Pending records, up to what was granted, marked SENT: births, then each lane in the buffer's order."""
        return [*self._hand_out_births(), *self._hand_out_lane(backlog=False), *self._hand_out_lane(backlog=True)]

    def _hand_out_births(self) -> list[Record]:
        """Pending births of both lanes; data whose birth has not come would have to wait in the cloud."""
        out: list[Record] = []
        lanes = self._file.memory.lanes
        while lanes.births and lanes.live + lanes.backlog > 0:
            rows = self._file.db.execute(
                f"{_SELECT_BIRTH} WHERE record.id > ? AND record.id < ? AND state < 2 AND kind = 1 "
                "ORDER BY record.id LIMIT ?",
                (lanes.birth_cursor, self._end, lanes.live + lanes.backlog),
            ).fetchall()
            if not rows:
                self._file.memory.lanes = replace(lanes, births=False)
                break
            self._file.db.executemany(
                "UPDATE record SET state = 1 WHERE id = ? AND state = 0", [row[:1] for row in rows]
            )
            self._file.memory.lanes = replace(lanes, birth_cursor=rows[-1][0])
            for record in self._checked(rows):
                lanes = self._file.memory.lanes
                # Their own lane pays, or the other one.
                backlog = lanes.backlog > 0 and (record.backlog or not lanes.live)
                self._file.memory.lanes = lanes.paid(1, backlog=backlog)
                out.append(replace(record, backlog=backlog))
            lanes = self._file.memory.lanes
        return out

    def _hand_out_lane(self, *, backlog: bool) -> list[Record]:
        out: list[Record] = []
        lanes = self._file.memory.lanes
        while (credit := lanes.backlog if backlog else lanes.live) > 0:
            after, before = (
                (lanes.cursor, min(lanes.boundary, self._end)) if backlog else (lanes.live_cursor, self._end)
            )
            rows = self._file.db.execute(
                f"{_SELECT} WHERE record.id > ? AND record.id < ? AND state < 2 AND kind <> 1 "
                "ORDER BY record.id LIMIT ?",
                (after, before, credit),
            ).fetchall()
            if not rows:
                break
            last = rows[-1][0]
            self._file.db.execute(
                "UPDATE record SET state = 1 WHERE id > ? AND id <= ? AND state < 2 AND state = 0 AND kind <> 1",
                (after, last),
            )
            self._file.memory.lanes = replace(lanes, cursor=last) if backlog else replace(lanes, live_cursor=last)
            found = self._checked(rows)
            lanes = self._file.memory.lanes = self._file.memory.lanes.paid(len(found), backlog=backlog)
            out += found
        return out

    @property
    def _end(self) -> int:
        """Above every id that may be handed out."""
        memory = self._file.memory
        return memory.next_id if memory.held_from is None else memory.held_from

    def load(self, ids: Iterable[int]) -> list[Record]:
        """Those of the given records that are still pending, for another attempt."""
        rows: list[Any] = []
        for id_ in ids:
            rows += self._file.db.execute(f"{_SELECT} WHERE record.id = ? AND state < 2", (id_,)).fetchall()
        return self._checked(rows)

    def _checked(self, rows: Iterable[Sequence[Any]]) -> list[Record]:
        """Records with their payload; those whose payload is damaged are given up, with a gap record."""
        good: list[Record] = []
        damaged: list[Sequence[Any]] = []
        for row in rows:
            id_, epoch, seq, kind, state, detail, readings, expected = row
            payload = self._file.fresh.get(id_)
            if payload is None:
                payload = self._payload(id_, expected)
                if payload is not None and kind == Kind.DATA and identity(kind, detail, payload) != (epoch, seq):
                    raise ValueError(f"record {id_} is stored as {epoch}, {seq} and says something else")
            if payload is None:
                damaged.append(row)
            else:
                sent = state != State.NEW
                backlog = id_ < self._file.memory.lanes.boundary
                good.append(Record(id_, epoch, seq, Kind(kind), detail, payload, readings, sent, backlog))
        if damaged:
            self._losses.give_up([(row[0], row[1], row[2], row[6]) for row in damaged])
        return good

    def _payload(self, id_: int, expected: bytes) -> bytes | None:
        packed = self._file.db.execute("SELECT payload FROM record WHERE id = ?", (id_,)).fetchone()[0]
        return unpacked(packed, expected)
