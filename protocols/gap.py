"""Gap record: what the agent had to drop, so that a loss is a fact in the database and not a silence.

Only batches that were never sent may be dropped. The record lists their seqs; ingest counts them as settled
and refuses them if they come after all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import orjson

from protocols import wire
from protocols.errors import PayloadError
from protocols.reading import MAX_POINT, BatchKey

Reason = Literal["disk_full", "size_limit", "thinned", "retimed", "buffer_corrupt", "operator"]
"""With "thinned" some readings of each dropped batch come after all, in batches that were made of them; with
"retimed" all of them do, with their times put right."""


@dataclass(frozen=True, slots=True)
class LostPoints:
    """Readings that were lost of some points of one schema.

    Attributes
    ----------
    schema_id
        Schema that the indices refer to.
    points
        Indices of the points.
    first_us, last_us
        Times of the first and last lost reading [µs UTC].
    readings
        How many.
    """

    schema_id: str
    points: tuple[int, ...]
    first_us: int
    last_us: int
    readings: int


@dataclass(frozen=True, slots=True)
class Gap:
    """What was dropped and why.

    Attributes
    ----------
    key
        Identity of this record, like a batch's.
    created_us
        When it was put in the buffer [µs UTC].
    reason
        Why it was dropped.
    dropped
        Per epoch, inclusive ranges of seqs that will never come.
    lost
        The readings that were in them.
    """

    key: BatchKey
    created_us: int
    reason: Reason
    dropped: dict[str, tuple[tuple[int, int], ...]]
    lost: tuple[LostPoints, ...]

    def encode(self) -> bytes:
        """JSON bytes."""
        key = self.key
        return orjson.dumps(
            {
                "v": 1,
                "tenant": key.tenant,
                "agent": key.agent,
                "epoch": key.epoch,
                "seq": key.seq,
                "at": self.created_us,
                "reason": self.reason,
                "dropped": self.dropped,
                "lost": [
                    {
                        "schema": item.schema_id,
                        "points": item.points,
                        "first": item.first_us,
                        "last": item.last_us,
                        "readings": item.readings,
                    }
                    for item in self.lost
                ],
            }
        )


def decode(payload: bytes) -> Gap:
    """Decode a gap record.

    Raises
    ------
    PayloadError
        If it is not valid.
    """
    document = wire.loads(payload, "gap")
    wire.only(document, {"v", "tenant", "agent", "epoch", "seq", "at", "reason", "dropped", "lost"}, "gap")
    wire.version(document, 1, "gap")
    reason = wire.text(document, "reason", "gap")
    if reason not in get_args(Reason):
        raise PayloadError(f"gap.reason is {reason!r}; allowed: {', '.join(get_args(Reason))}")
    dropped = {}
    spans = wire.mapping(document, "dropped", "gap")
    for epoch in spans:
        wire.hex_digits({"epoch": epoch}, "epoch", 32, "gap.dropped")
        dropped[epoch] = wire.ranges(spans[epoch], f"gap.dropped.{epoch}")
    lost = []
    for position, item in enumerate(wire.array(document, "lost", "gap")):
        where = f"gap.lost[{position}]"
        if type(item) is not dict:
            raise PayloadError(f"{where} is {item!r:.80}; allowed: an object")
        wire.only(item, {"schema", "points", "first", "last", "readings"}, where)
        points = wire.array(item, "points", where)
        if not all(type(index) is int and 0 <= index <= MAX_POINT for index in points):
            raise PayloadError(f"{where}.points is {points!r:.80}; allowed: indices from 0 to {MAX_POINT}")
        lost.append(
            LostPoints(
                wire.hex_digits(item, "schema", 64, where),
                tuple(points),
                wire.integer(item, "first", where),
                wire.integer(item, "last", where),
                wire.integer(item, "readings", where, low=0),
            )
        )
    return Gap(
        wire.key(document, "gap"),
        wire.integer(document, "at", "gap"),
        cast("Reason", reason),
        dropped,
        tuple(lost),
    )
