"""Records that wait until the gateway's clock is right, and are re-timed then.

Invariants

- While it holds, nothing is handed out from a place in the buffer on. So all that is there is NEW, and may be
  written again.
- The place is kept in the file, with the boot it belongs to. After a restart of the process in the same boot
  the waiting goes on; after another boot what waited goes out as it is, since monotonic times do not compare.
- A batch whose times were wrong is written again in its place, under an identity of its own, with its times put
  right and its good readings marked; the same transaction writes the gap record that takes the old one back.
  Births are written again with the present time; gap records stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_agent.buffer.file import BufferFile, unpacked
from edge_agent.buffer.losses import Losses, Lost
from edge_agent.buffer.records import Draft, Kind, Level
from edge_agent.buffer.room import read_batch, write_batch
from edge_agent.clock import BOOT_ID, UNKNOWN_BOOT
from protocols.payload.base import Codec
from protocols.quality import Quality
from protocols.reading import Batch, ClockState, Columns

_META = "held_from"
_ROWS = 200
"""Rows written again in one transaction."""
_RIGHT_US = 1_000
"""Times are right if they are this close."""
_SELECT = (
    "SELECT record.id, epoch.name, seq, kind, detail, readings, level, digest, payload FROM record "
    "JOIN epoch ON epoch.id = record.epoch WHERE record.id >= ? AND state = 0 ORDER BY record.id LIMIT ?"
)


class Holding:
    """Holds back the records of a file.

    Parameters
    ----------
    file
        The file.
    losses
        Where identities are taken back.
    codec
        Of what is written again.
    """

    def __init__(self, file: BufferFile, losses: Losses, codec: Codec) -> None:
        self._file = file
        self._losses = losses
        self._codec = codec

    def resume(self) -> None:
        """Go on with what waited, if it is of this boot."""
        place, _, boot = (self._file.meta(_META) or "").partition(" ")
        if boot == BOOT_ID != UNKNOWN_BOOT:
            self._file.memory.held_from = int(place)
        elif boot:
            self._set(None)

    def begin(self) -> None:
        """Hold back what is written from now on."""
        if self._file.memory.held_from is None:
            self._set(self._file.memory.next_id)

    def release(self, offset_us: int | None) -> bool:
        """Let go what waits, as much of it as one transaction should; says whether there is more.

        Parameters
        ----------
        offset_us
            Real time at the zero of the monotonic clock [µs UTC]; None: nobody knows, so nothing is re-timed.
        """
        place = self._file.memory.held_from
        if place is None:
            return False
        rows = self._file.db.execute(_SELECT, (place, _ROWS)).fetchall() if offset_us is not None else []
        lost = Lost()
        damaged = []
        for row in rows:
            assert offset_us is not None
            if row[3] == Kind.BIRTH:
                self._again_birth(row, lost)
            elif row[3] == Kind.DATA and not self._again_batch(row, offset_us, lost):
                damaged.append((row[0], row[1], row[2], row[5]))
        if damaged:
            self._losses.give_up(damaged)
        if lost.records:
            self._losses.declare("retimed", lost)
        self._file.memory.lanes = self._file.memory.lanes.with_births()
        more = len(rows) == _ROWS
        self._set(rows[-1][0] + 1 if more else None)
        return more

    def _again_batch(self, row: Sequence[Any], offset_us: int, lost: Lost) -> bool:
        """Write a batch again, if its times were wrong; False: it can't be read."""
        id_, epoch, seq, _, codec, _, level, expected, packed = row
        batch = read_batch(codec, expected, packed)
        if batch is None:
            return False
        shift_us = offset_us - (batch.created_us - batch.clock.monotonic_us)
        if batch.clock.boot_id != BOOT_ID or abs(shift_us) <= _RIGHT_US:
            return True
        self._file.delete([id_])
        lost.add(epoch, seq)
        schema = self._file.schema(batch.schema_id)
        if schema is not None:
            self._file.ensure_birth(schema)
        write_batch(self._file, self._codec, _retimed(batch, shift_us), Level(level), id_)
        return True

    def _again_birth(self, row: Sequence[Any], lost: Lost) -> None:
        id_, epoch, seq, _, schema_id, _, _, expected, packed = row
        schema = self._file.schema(schema_id)
        if schema is None or unpacked(packed, expected) is None:
            return
        self._file.delete([id_])
        lost.add(epoch, seq)
        self._file.append_birth(schema, id_)

    def _set(self, place: int | None) -> None:
        self._file.memory.held_from = place
        if place is None:
            self._file.db.execute("DELETE FROM meta WHERE name = ?", (_META,))
        else:
            self._file.set_meta(_META, f"{place} {BOOT_ID}")


def _retimed(batch: Batch, shift_us: int) -> Draft:
    columns = {
        value_type: Columns(
            group.points,
            group.offsets_us,
            group.values,
            [Quality.GOOD_RETIMED if code == Quality.GOOD else code for code in group.qualities or [0] * len(group)],
        )
        for value_type, group in batch.columns.items()
    }
    clock = ClockState(True, batch.clock.boot_id, batch.clock.monotonic_us)
    return Draft(batch.schema_id, batch.created_us + shift_us, clock, batch.base_us + shift_us, columns)
