"""A batch of readings: the unit that is buffered, sent, deduplicated and stored.

Invariants

- A batch is immutable once it is in the agent's buffer; its identity is (tenant, agent, epoch, seq), its
  digest the SHA-256 of its encoded bytes.
- Readings are columns, one group per value type; the columns of a group have one length.
- Times are offsets from the batch's base time, so that they stay small and exact.
- A reading is bad (quality >= 128) exactly when it has no value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

ValueType = Literal["float", "int", "bool", "text"]
VALUE_TYPES: tuple[ValueType, ...] = ("float", "int", "bool", "text")
Value = float | int | bool | str | None

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
"""Range of integer values; anything wider is sent as a float or as text."""
MAX_POINT = 2**31 - 1
"""Highest index of a point in its schema."""


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Identity of a message that goes through the agent's buffer.

    Attributes
    ----------
    tenant, agent
        As in the topic.
    epoch
        32 lower-case hex digits, drawn at random at every start of the agent and for every new buffer file.
    seq
        Position within the epoch, from 1, without holes.
    """

    tenant: str
    agent: str
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class ClockState:
    """What the agent knew of its clock when it closed the batch.

    Attributes
    ----------
    synchronised
        Whether the operating system said that the clock is disciplined by a time source.
    boot_id
        Changes at every boot of the gateway; monotonic times of different boots do not compare.
    monotonic_us
        Monotonic clock at `Batch.created_us` [µs].
    """

    synchronised: bool
    boot_id: str
    monotonic_us: int


@dataclass(frozen=True, slots=True)
class Columns:
    """Readings of one value type as parallel sequences.

    Attributes
    ----------
    points
        Index of the point in the batch's schema.
    offsets_us
        Time of measurement minus `Batch.base_us` [µs].
    values
        Values in the point's unit; None where the quality is bad.
    qualities
        Codes of `protocols.quality`; empty means that all are good.
    """

    points: Sequence[int]
    offsets_us: Sequence[int]
    values: Sequence[Value]
    qualities: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings of one agent under one schema.

    Attributes
    ----------
    key
        Identity.
    schema_id
        SHA-256 of the schema's canonical bytes, 64 lower-case hex digits.
    created_us
        When the agent closed the batch [µs UTC, plant time].
    clock
        State of the agent's clock then.
    base_us
        Time that the offsets count from [µs UTC].
    columns
        Groups by value type; a type without readings is absent.
    """

    key: BatchKey
    schema_id: str
    created_us: int
    clock: ClockState
    base_us: int
    columns: dict[ValueType, Columns] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(group) for group in self.columns.values())


def digest(payload: bytes) -> bytes:
    """SHA-256 of an encoded message: 32 bytes."""
    return hashlib.sha256(payload).digest()
