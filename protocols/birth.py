"""Schema at birth: what an agent's points are. Without it no reading is interpreted.

A schema is immutable: its id is the SHA-256 of its canonical bytes (JSON, keys sorted, no spaces, fields at
their default value included). Batches refer to points by their index in the schema.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, Protocol, Self

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from protocols import quantities, topics, wire
from protocols.errors import PayloadError, ProtocolError, SchemaError
from protocols.quantities import Kind, Medium
from protocols.reading import BatchKey, ValueType

_LATER = ("deadband_percent",)
"""Fields of a point that the first schemas did not have."""


class Point(BaseModel):
    """One measured or counted quantity of one device.

    Attributes
    ----------
    device, tag
        Names; with the site they form the point's full name ``site/device/tag``, unique in a tenant.
    quantity, unit, kind, medium
        See `protocols.quantities`.
    value_type
        Which table the values go to.
    poll_interval_s
        Expected distance of readings.
    heartbeat_s
        With report by exception: the longest silence while the value stands still. None: every poll is sent.
    gap_limit_s
        A longer distance between two valid readings is a gap.
    scale, offset
        What the agent did to the raw register: ``value = raw * scale + offset``. Counters are sent as read:
        never rebased, never unwrapped.
    modulus
        Counters: the value at which the register starts again from 0 [unit]. None: it does not.
    max_rate_per_h
        Plausible maximum use per hour [unit/h]; None: not known.
    deadband, deadband_percent
        Report by exception: changes up to this are not sent [unit], [% of the value sent last].
    accuracy_class
        As printed on the meter, such as "0.5S".
    address
        Where the value is read, for audit: register table, address and type, or node id.
    model, serial
        Meter model of the catalogue, and serial number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    device: str
    tag: str
    quantity: str
    unit: str
    kind: Kind
    medium: Medium = "none"
    value_type: ValueType = "float"
    poll_interval_s: float = Field(gt=0)
    heartbeat_s: float | None = Field(default=None, gt=0)
    gap_limit_s: float = Field(gt=0)
    scale: float = 1.0
    offset: float = 0.0
    modulus: float | None = Field(default=None, gt=0)
    max_rate_per_h: float | None = Field(default=None, gt=0)
    deadband: float | None = Field(default=None, ge=0)
    deadband_percent: float | None = Field(default=None, ge=0, le=100)
    accuracy_class: str | None = None
    address: str = ""
    model: str | None = None
    serial: str | None = None

    @model_serializer(mode="wrap")
    def _as_ever(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a field that came later and is not used, so that ids of schemas stay."""
        found: dict[str, Any] = dump(self)
        for name in _LATER:
            if found[name] is None:
                del found[name]
        return found

    @field_validator("device", "tag")
    @classmethod
    def _names(cls, value: str) -> str:
        try:
            return topics.check_name("name", value)
        except ProtocolError as error:
            raise ValueError(str(error)) from error

    @field_validator("accuracy_class", "address", "model", "serial")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("holds a NUL character, which a database could not store")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            quantities.check(self.quantity, self.unit, self.kind, self.medium)
        except ProtocolError as error:
            raise ValueError(str(error)) from error
        silence = self.heartbeat_s if self.heartbeat_s is not None else self.poll_interval_s
        if silence > self.gap_limit_s:
            what = "heartbeat_s" if self.heartbeat_s is not None else "poll_interval_s"
            raise ValueError(
                f"{what} {silence:g} is longer than gap_limit_s {self.gap_limit_s:g}, so silence could not be told "
                f"from a gap; allowed: up to {self.gap_limit_s:g}"
            )
        if self.modulus is not None and self.kind != "counter":
            raise ValueError(f"modulus {self.modulus:g} on a {self.kind}; allowed: on counters only")
        if self.kind == "counter" and self.value_type not in ("float", "int"):
            raise ValueError(f"value_type {self.value_type!r} on a counter; allowed: float, int")
        if self.scale == 0:
            raise ValueError("scale 0 would make every value 0; allowed: any other number")
        return self


class Schema(BaseModel):
    """The points of one agent at one site.

    Attributes
    ----------
    site
        Site name.
    points
        The position of a point is its index in batches.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: Literal[1] = 1
    site: str
    points: tuple[Point, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        try:
            topics.check_name("site", self.site)
        except ProtocolError as error:
            raise ValueError(str(error)) from error
        seen: set[tuple[str, str]] = set()
        for point in self.points:
            name = (point.device, point.tag)
            if name in seen:
                raise ValueError(f"device {point.device!r} has two tags {point.tag!r}; allowed: one of each name")
            seen.add(name)
        return self

    def name_of(self, index: int) -> str:
        """Full name ``site/device/tag`` of a point."""
        point = self.points[index]
        return f"{self.site}/{point.device}/{point.tag}"

    def canonical(self) -> bytes:
        """Canonical bytes: what the id is the digest of."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)

    def id(self) -> str:
        """SHA-256 of the canonical bytes, 64 lower-case hex digits."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def column(self, name: str) -> list[Any]:
        """One field of all points, in their order."""
        return [getattr(point, name) for point in self.points]

    def pieces(self) -> Iterator[bytes]:
        """The document that a birth carries, piece by piece."""
        yield orjson.dumps(self.model_dump(mode="json"))


class AnySchema(Protocol):
    """A schema, however it is kept: as a `Schema`, or as a `protocols.roster.Roster`."""

    @property
    def points(self) -> Sequence[Point]:
        """The position of a point is its index in batches."""
        ...

    def id(self) -> str:
        """SHA-256 of the canonical bytes, 64 lower-case hex digits."""
        ...

    def column(self, name: str) -> list[Any]:
        """One field of all points, in their order."""
        ...

    def pieces(self) -> Iterator[bytes]:
        """The document that a birth carries, piece by piece."""
        ...


def schema_from_document(document: dict[str, Any]) -> Schema:
    """Check a schema document.

    Raises
    ------
    SchemaError
        Naming the field, the value and what is allowed.
    """
    try:
        return Schema.model_validate(document, strict=False)
    except ValidationError as error:
        raise SchemaError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """One line of the first problems of a pydantic error: where, what was found, why not."""
    parts = []
    for problem in error.errors(include_url=False)[:5]:
        where = ".".join(str(step) for step in problem["loc"]) or "document"
        found = "" if problem["type"] == "value_error" else f" (found {problem['input']!r:.60})"
        parts.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}{found}")
    more = error.error_count() - len(parts)
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Birth:
    """A schema on its way through the buffer.

    Attributes
    ----------
    key
        Identity, like a batch's.
    created_us
        When it was put in the buffer [µs UTC].
    schema
        The points.
    """

    key: BatchKey
    created_us: int
    schema: Schema

    def encode(self) -> bytes:
        """JSON bytes; retained on the schema's own topic."""
        return encode(self.key, self.created_us, self.schema)


def encode(key: BatchKey, created_us: int, schema: AnySchema) -> bytes:
    """The bytes of a birth; see `Birth`."""
    head = {
        "v": 1,
        "tenant": key.tenant,
        "agent": key.agent,
        "epoch": key.epoch,
        "seq": key.seq,
        "at": created_us,
        "id": schema.id(),
    }
    # Of many points it is large, so nothing is kept of it twice.
    found = BytesIO()
    found.write(orjson.dumps(head)[:-1] + b',"schema":')
    found.writelines(schema.pieces())
    found.write(b"}")
    return found.getvalue()


def decode(payload: bytes) -> Birth:
    """Decode a birth.

    Raises
    ------
    PayloadError, SchemaError
        If it is not valid, or the id is not that of the schema.
    """
    document = wire.loads(payload, "birth")
    wire.only(document, {"v", "tenant", "agent", "epoch", "seq", "at", "id", "schema"}, "birth")
    wire.version(document, 1, "birth")
    schema = schema_from_document(wire.mapping(document, "schema", "birth"))
    claimed = wire.hex_digits(document, "id", 64, "birth")
    if claimed != schema.id():
        raise PayloadError(f"birth.id is {claimed}; the schema's own id is {schema.id()}")
    return Birth(wire.key(document, "birth"), wire.integer(document, "at", "birth"), schema)
