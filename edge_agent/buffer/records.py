"""What goes into the buffer and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from protocols.reading import ClockState, Columns, ValueType


class Kind(IntEnum):
    """What a record is. Stored: never renumber."""

    DATA = 0
    BIRTH = 1
    GAP = 2


class State(IntEnum):
    """How far a record has come. Stored: never renumber."""

    NEW = 0
    """Never given to the broker; only these may be dropped."""
    SENT = 1
    """Perhaps given to the broker: set on disk before the first attempt."""
    COMMITTED = 2
    """The store has it; kept for a while, for the case that the store is restored."""


class Level(IntEnum):
    """What was taken out of a batch that was never sent, for want of room. Stored: never renumber."""

    RAW = 0
    """Nothing."""
    THINNED = 1
    """Of gauges and states most readings; see `thinning`."""
    ESSENTIAL = 2
    """All but counters and events."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Readings that make one batch; its identity is given when it is written.

    Attributes
    ----------
    schema_id
        Schema of the points.
    created_us
        When the batch was closed [µs UTC, plant time].
    clock
        State of the clock then.
    base_us
        What offsets count from [µs UTC].
    columns
        Readings by value type; at least one.
    """

    schema_id: str
    created_us: int
    clock: ClockState
    base_us: int
    columns: dict[ValueType, Columns]


@dataclass(frozen=True, slots=True)
class Record:
    """A record on its way to the broker.

    Attributes
    ----------
    id
        Place in the buffer; of what was handed out, never used twice in a process.
    epoch, seq
        Identity.
    kind
        What it is.
    detail
        Codec of data, schema id of a birth, else "".
    payload
        The message, its digest checked.
    readings
        How many are in it.
    resent
        Whether it may have been given to the broker before.
    backlog
        Whether it was in the buffer before this connection began, or was revived since; of a birth that is
        handed out: whether it used the backlog's grant.
    """

    id: int
    epoch: str
    seq: int
    kind: Kind
    detail: str
    payload: bytes
    readings: int
    resent: bool
    backlog: bool


@dataclass(frozen=True, slots=True)
class Applied:
    """What a committed message did.

    Attributes
    ----------
    freed
        Ids of records that the store has and that were pending until now.
    announce
        The store was restored: announce the session again to hear what it has. Names its incarnation.
    revived
        Records that were committed and are pending again, because a restored store lacks them.
    """

    freed: tuple[int, ...] = ()
    announce: str | None = None
    revived: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """What the buffer holds.

    Attributes
    ----------
    epochs
        Of its records, oldest first, and the current one.
    readings_appended
        Ever written to this buffer, by all its processes.
    records_pending, readings_pending
        Not yet committed; births and gap records count as records.
    bytes_used
        What counts against the buffer's limit [B]: pages in use, and room for the log.
    oldest_pending_us
        Time of the oldest reading not yet committed [µs UTC]; None if all are.
    """

    epochs: tuple[str, ...]
    readings_appended: int
    records_pending: int
    readings_pending: int
    bytes_used: int
    oldest_pending_us: int | None = None
