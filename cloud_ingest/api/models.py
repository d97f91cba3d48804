"""What the API answers, as documented in ``/openapi.json``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:metercarbon:problem:bad-parameter"])
    title: str
    status: int
    detail: str = Field(description="What was found and what is allowed.")
    parameter: str | None = Field(default=None, description="Parameter that is wrong.")
    value: Any = Field(default=None, description="Its value.")
    allowed: str | None = Field(default=None, description="What is allowed.")


class Index(_Answer):
    """Where to go from here."""

    name: str
    version: str
    docs: str
    openapi: str
    routes: list[str]


class Health(_Answer):
    """Whether the process runs, or is ready."""

    status: Literal["ok"]


class Point(_Answer):
    """A point: one measured or counted quantity of one device."""

    name: str = Field(
        description="Full name, unique in the tenant.", examples=["cement/kiln_main/active_energy_import"]
    )
    site: str
    device: str
    tag: str
    quantity: str = Field(examples=["active_energy"])
    unit: str = Field(description="Unit of the values.", examples=["kWh"])
    kind: str = Field(description="counter, gauge, state or event.")
    medium: str
    value_type: str = Field(description="float, int, bool or text.")
    definition: dict[str, Any] = Field(description="The point as the agent announced it.")


class Points(_Answer):
    """A page of points, ordered by name."""

    points: list[Point]
    next: str | None = Field(description="Cursor of the next page; null at the end.")


class PointInfo(_Answer):
    """What a page of readings says of a point."""

    name: str
    unit: str
    value_type: str


class ReadingColumns(_Answer):
    """Readings as columns of one length."""

    point: list[int] = Field(description="Position in `points`.")
    at: list[str] = Field(description="Time of measurement, UTC.")
    value: list[float | int | bool | str | None] = Field(description="In the point's unit; null where bad.")
    quality: list[str] = Field(description="good, uncertain… or bad…", examples=[["good", "bad_timeout"]])
    batch: list[int] = Field(description="Id of the batch in the ledger that brought it.")


class Readings(_Answer):
    """A page of readings, ordered by point as asked for and time; one a point and time."""

    points: list[PointInfo]
    columns: ReadingColumns
    next: str | None = Field(description="Cursor of the next page; null at the end.")


class Figure(_Answer):
    """A sum of metered use or output."""

    value: float | None = Field(description="null: not known.")
    unit: str
    coverage: float = Field(
        description="Share of the time in which every meter's course is known: that of the worst meter, 0 to 1."
    )
    estimated_share: float | None = Field(
        description="Share of the value that was split by time over a gap; null if nothing is known."
    )


class Output(Figure):
    """What a process made."""

    product: str


class Ratio(_Answer):
    """A figure per unit of output."""

    value: float | None = Field(description="null: not known, see `notes`.")
    unit: str = Field(examples=["kWh/t"])
    coverage: float = Field(description="The lesser of use and output, 0 to 1.")
    estimated_share: float | None = Field(description="The greater of use and output; null if one is not known.")


class Factor(_Answer):
    """The CO₂ factor behind a figure."""

    value: float
    unit: str = Field(examples=["kgCO2/kWh"])
    kind: str
    name: str = Field(description="Region or substance it is of.")
    year: int | None
    version: str = Field(description="Version of the factor tables.")
    source: str
    status: str = Field(description="How well its source was checked: seen, recalled …")
    provisional: bool = Field(description="Whether it is another year's, until the year's own is published.")


class Co2(_Answer):
    """CO₂ of an account."""

    value: float | None = Field(description="null: not known, see `notes`.")
    unit: Literal["kg"] = "kg"
    coverage: float = Field(description="That of the use, 0 to 1.")
    estimated_share: float | None = Field(description="That of the use; null if nothing is known.")
    per_output: Ratio | None = Field(description="null where the process has no single product.")
    factor: Factor | None = Field(description="null: no factor applies, or it is missing, see `notes`.")


class Input(_Answer):
    """One meter behind an account."""

    point: str
    role: Literal["use", "output"]
    share: float = Field(description="How much of it counts; negative subtracts.")
    value: float | None = Field(description="Known use of the counter, before the share; null: not known.")
    coverage: float
    estimated_share: float | None
    flags: list[str] = Field(description="What happened: rollover, reset, transient, gap …")


class Account(_Answer):
    """What a process used in an hour or day, per unit of what it made, and the CO₂ of it."""

    site: str
    process: str = Field(description="A process of the plant model, or `balance:…` for a balance's residual.")
    carrier: str = Field(examples=["electricity"])
    period: Literal["hour", "day"]
    start: str = Field(description="First instant, with the site's offset.")
    end: str = Field(description="First instant after it.")
    revision: int = Field(description="1, and one more each time a final account was changed.")
    current: bool = Field(description="Whether this is the latest revision.")
    status: Literal["provisional", "final"]
    use: Figure
    output: Output | None = Field(description="null where the process has no single product.")
    unit_use: Ratio | None = Field(description="Use per output; null where the process has no single product.")
    co2: Co2
    flags: list[str] = Field(description="What happened to any of its meters.")
    notes: list[str] = Field(description="Why a figure is missing, in words.")
    inputs: list[Input] = Field(description="The meters it was computed from; GET /v1/readings has their readings.")
    plant_model: str = Field(description="Digest of the plant model it was computed by.")
    computed_at: str


class Accounts(_Answer):
    """A page of accounts, ordered by start, process, carrier, period and revision."""

    accounts: list[Account]
    next: str | None = Field(description="Cursor of the next page; null at the end.")


class Agent(_Answer):
    """An agent and what is known of it."""

    name: str
    state: str = Field(description="online, offline or unknown.")
    state_at: str | None = Field(description="When the state was learnt.")
    software: str
    detail: str
    last_batch_at: str | None = Field(description="When the store last took a message of it.")


class Agents(_Answer):
    """All agents of a tenant."""

    agents: list[Agent]


class DeadLetter(_Answer):
    """A message that could not be stored."""

    id: int
    agent: str | None
    topic: str
    kind: str = Field(description="Such as undecodable, identity or conflict.")
    reason: str
    batch_id: int | None = Field(description="Its place in the ledger, if it could be read who it is.")
    first_at: str
    last_at: str
    times: int = Field(description="How often it came.")
    size: int = Field(description="Of the payload [bytes].")
    payload: str | None = Field(default=None, description="In base64; only where one letter is asked for.")


class DeadLetters(_Answer):
    """A page of dead letters, newest first."""

    dead_letters: list[DeadLetter]
    next: str | None = Field(description="Cursor of the next page; null at the end.")


class QuarantinedReading(_Answer):
    """A reading with a time that can't be."""

    id: int
    state: str = Field(description="held, released or discarded.")
    batch_id: int
    agent: str | None
    point: str
    at_us: int = Field(description="Its time as it came, which may be any [µs UTC].")
    value: str | None = Field(description="As text; null if the quality is bad.")
    quality: str
    reason: str
    quarantined_at: str


class Quarantine(_Answer):
    """A page of readings in quarantine, newest first."""

    readings: list[QuarantinedReading]
    next: str | None = Field(description="Cursor of the next page; null at the end.")


class Holder(_Answer):
    """An open transaction that holds the change feed back."""

    pid: int
    application: str
    state: str
    age_s: float


class Feed(_Answer):
    """How far settle is behind the change feed."""

    lag_rows: int | None = Field(description="Changes not yet settled; null before settle first started.")
    held_rows: int | None = Field(description="Those of them that wait for an older transaction to end.")
    oldest_s: float | None = Field(description="Age of the oldest of them [s].")
    holders: list[Holder]


class Ledger(_Answer):
    """Sums over the ledger."""

    messages: int
    readings: int


class Status(_Answer):
    """State of the store and of settle."""

    edition: str
    feed: Feed
    parked: int = Field(description="Messages waiting for their schema, counted up to 10,000.")
    dead_letters: int = Field(description="Messages set apart, counted up to 10,000.")
    provisional_accounts: int = Field(description="Current accounts not yet final, counted up to 10,000.")
    ledger: Ledger | None = Field(description="Only if asked for by `totals=true`: it reads the whole ledger.")
