"""An agent's messages without an agent: births, batches, gaps and sessions of one buffer, for tests of ingest."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from cloud_ingest.ingest.decode import Parsed, parse
from protocols import topics
from protocols.birth import Birth, Point, Schema
from protocols.gap import Gap, LostPoints, Reason
from protocols.payload import registry
from protocols.reading import Batch, BatchKey, ClockState, Columns, ValueType
from protocols.session import Session

JUNE_US = 1_655_136_000_000_000
"""2022-06-13 16:00 UTC [µs UTC]."""
SECOND_US = 1_000_000


@dataclass(frozen=True)
class Sent:
    """A message as it goes to the broker."""

    topic: str
    payload: bytes

    def parsed(self) -> Parsed:
        return parse(self.topic, self.payload)


def point(tag: str, value_type: ValueType = "float", device: str = "meter") -> Point:
    """A point of any value type."""
    if value_type in ("float", "int"):
        return Point(
            device=device,
            tag=tag,
            quantity="active_energy",
            unit="kWh",
            kind="counter",
            medium="electricity",
            value_type=value_type,
            poll_interval_s=1,
            gap_limit_s=60,
        )
    kind, quantity = ("state", "running") if value_type == "bool" else ("event", "text")
    return Point(
        device=device,
        tag=tag,
        quantity=quantity,
        unit="1",
        kind=kind,
        value_type=value_type,
        poll_interval_s=1,
        gap_limit_s=60,
    )


class FakeAgent:
    """Numbers messages as an agent does: seqs from 1 without holes in an epoch."""

    def __init__(
        self, tenant: str = "acme", name: str = "gw1", points: Sequence[Point] = (), site: str = "plant"
    ) -> None:
        self.tenant = tenant
        self.name = name
        self.epoch = uuid.uuid4().hex
        self.seq = 0
        self.schema = Schema(site=site, points=tuple(points) or (point("energy"), point("energy2")))

    def key(self, seq: int | None = None) -> BatchKey:
        if seq is None:
            self.seq += 1
            seq = self.seq
        return BatchKey(self.tenant, self.name, self.epoch, seq)

    def birth(self, created_us: int = JUNE_US, gap_limit_s: float | None = None) -> Sent:
        """A birth; with another gap limit it is of another schema."""
        schema = self.schema
        if gap_limit_s is not None:
            points = tuple(p.model_copy(update={"gap_limit_s": gap_limit_s}) for p in schema.points)
            schema = Schema(site=schema.site, points=points)
        born = Birth(self.key(), created_us, schema)
        return Sent(topics.birth(self.tenant, self.name, schema.id()), born.encode())

    def batch(
        self,
        columns: dict[ValueType, Columns],
        base_us: int = JUNE_US,
        seq: int | None = None,
        schema_id: str | None = None,
    ) -> Sent:
        batch = Batch(
            self.key(seq),
            schema_id or self.schema.id(),
            base_us,
            ClockState(synchronised=True, boot_id="b", monotonic_us=1),
            base_us,
            columns,
        )
        return Sent(topics.data(self.tenant, self.name, "json1"), registry.codec("json1").encode(batch))

    def floats(self, *values: float | None, first_s: float = 0, index: int = 0, seq: int | None = None) -> Sent:
        """A batch of one float point, a value a second; None is a bad reading."""
        size = len(values)
        qualities = [130 if value is None else 0 for value in values]
        columns = Columns([index] * size, [n * SECOND_US for n in range(size)], list(values), qualities)
        return self.batch({"float": columns}, JUNE_US + round(first_s * SECOND_US), seq)

    def gap(self, dropped: dict[str, tuple[tuple[int, int], ...]], readings: int = 10, index: int = 0) -> Sent:
        lost = LostPoints(self.schema.id(), (index,), JUNE_US, JUNE_US + SECOND_US, readings)
        record = Gap(self.key(), JUNE_US, "disk_full", dropped, (lost,))
        return Sent(topics.gap(self.tenant, self.name), record.encode())

    def event(self, reason: Reason) -> Sent:
        """A gap record that knows no details."""
        return Sent(topics.gap(self.tenant, self.name), Gap(self.key(), JUNE_US, reason, {}, ()).encode())

    def session(self, *epochs: str, state: str = "online", session: str | None = None) -> Sent:
        record = Session(
            self.tenant,
            self.name,
            state,  # type: ignore[arg-type]
            session or uuid.uuid4().hex,
            JUNE_US,
            "fake 1",
            epochs or (self.epoch,),
        )
        return Sent(topics.session(self.tenant, self.name), record.encode())

    def topic(self) -> str:
        return topics.data(self.tenant, self.name, "json1")
