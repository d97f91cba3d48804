"""`agent.toml`: what it may say. Whether its devices make sense together is checked in `points`."""

from __future__ import annotations

import time
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from protocols import topics
from protocols.config import Model
from protocols.errors import ProtocolError
from protocols.meters.schema import Limits, Order, RegisterType, TableName
from protocols.quantities import Kind, Medium
from protocols.reading import ValueType
from protocols.timebase import REAL_TIME, US, TimeBase

Seconds = Annotated[float, Field(gt=0, le=86_400 * 366, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65_535)]


def sample() -> str:
    """A commented sample that passes `check-config`."""
    return (resources.files("edge_agent") / "sample.toml").read_text(encoding="utf-8")


class _Named(Model):
    name: str

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return _checked_name("name", value)


class Agent(_Named):
    """Who this agent is: names in topics and in the full names of points."""

    tenant: str
    site: str

    @field_validator("tenant", "site")
    @classmethod
    def _names(cls, value: str) -> str:
        return _checked_name("name", value)


class ClockSettings(Model):
    """Plant time: real by default, else simulated.

    Attributes
    ----------
    origin
        Plant time at the anchor, with its offset from UTC; None or "": plant time is real time.
    anchor_us
        Real time of the anchor [µs UTC]; 0: when the configuration was read.
    speed
        Plant seconds per real second.
    """

    origin: datetime | None = None
    anchor_us: int = Field(default=0, ge=0)
    speed: float = Field(default=1.0, gt=0, le=100_000, allow_inf_nan=False)

    @field_validator("origin", mode="before")
    @classmethod
    def _absent(cls, value: Any) -> Any:
        return None if value == "" else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.origin is None and self.speed != 1:
            raise ValueError(f"speed {self.speed:g} without origin; allowed: 1, or an origin in the past")
        if self.origin is not None and self.origin.tzinfo is None:
            raise ValueError(f"origin {self.origin.isoformat()} has no offset; allowed: such as 2022-06-14T00:00+08:00")
        return self

    @property
    def simulated(self) -> bool:
        """Whether plant time is not real time."""
        return self.origin is not None

    def timebase(self) -> TimeBase:
        """The time base that these settings describe."""
        if self.origin is None:
            return REAL_TIME
        anchor_us = self.anchor_us or time.time_ns() // 1000
        return TimeBase(round(self.origin.timestamp() * US), anchor_us, self.speed)


class Buffer(Model):
    """The disk buffer.

    Attributes
    ----------
    path
        SQLite file; made if missing. Two agents never share one.
    max_bytes
        Most that records may take [B]; the file may become up to two thirds larger, and never shrinks.
    retain_committed_s, retain_committed_bytes
        How long, and how much of, what the store has is kept for the case that the store is restored [s], [B].
    """

    path: Path
    max_bytes: int = Field(default=1_000_000_000, ge=1_000_000)
    retain_committed_s: float = Field(default=7 * 86_400.0, ge=0)
    retain_committed_bytes: int = Field(default=200_000_000, ge=0)


class Batching(Model):
    """When a batch is closed: at so many readings, or at this age (real time) [s]."""

    max_readings: int = Field(default=500, ge=1, le=100_000)
    max_age_s: Seconds = 1.0


class Tls(Model):
    """TLS to the broker; an empty table means TLS with the system's authorities.

    Attributes
    ----------
    ca_file
        Authorities that may have signed the broker's certificate.
    certificate_file, key_file
        The agent's own certificate, where the broker wants one.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file or key_file is missing; allowed: both or neither")
        return self


class Mqtt(Model):
    """The broker.

    Attributes
    ----------
    version
        5, or 3 for MQTT 3.1.1.
    client_id
        None: drawn at every start, so that a cloned gateway does not throw the first one out.
    username, password_file, password_env
        The password is in a file or an environment variable, never here.
    keepalive_s
        Longest silence on the connection [s].
    window
        Most messages that the broker has not acknowledged; the broker's Receive Maximum counts too.
    max_uncommitted
        Most messages that the broker has and the store does not say it has.
    resend_after_s
        Real time after which a message that is not committed is sent again [s].
    delivery
        "committed": a message is delivered when the store has it. "broker": when the broker has it.
    """

    host: str
    port: Port = 1883
    version: Literal[5, 3] = 5
    client_id: str | None = None
    username: str | None = None
    password_file: Path | None = None
    password_env: str | None = None
    tls: Tls | None = None
    keepalive_s: int = Field(default=30, ge=5, le=3600)
    window: int = Field(default=100, ge=1, le=10_000)
    max_uncommitted: int = Field(default=2000, ge=1, le=100_000)
    resend_after_s: Seconds = 30.0
    delivery: Literal["committed", "broker"] = "committed"

    @field_validator("version", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        # The environment gives strings, and a literal is not converted.
        return int(value) if isinstance(value, str) and value.isdigit() else value

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password_file is not None and self.password_env is not None:
            raise ValueError("password_file and password_env are both given; allowed: one of them")
        return self


class Polling(Model):
    """Defaults of all devices, and how bad ones are treated.

    Attributes
    ----------
    poll_interval_s, gap_limit_s, heartbeat_s
        See `Device`.
    max_time_uncertainty
        Share of the poll interval. If a request takes longer, its readings are marked: when they were
        measured is not known well enough to account by.
    failures
        So many requests in a row without an answer, and a unit is only probed.
    probe_interval_s
        Real time between probes [s], jittered.
    """

    poll_interval_s: Seconds = 60.0
    gap_limit_s: Seconds = 900.0
    heartbeat_s: Seconds | None = None
    max_time_uncertainty: float = Field(default=0.2, gt=0, le=1)
    failures: int = Field(default=3, ge=1, le=1000)
    probe_interval_s: Seconds = 10.0


class ModbusTcp(_Named):
    """A connection to a Modbus TCP device or gateway; all its units share it, one request at a time.

    Attributes
    ----------
    timeout_s
        Longest wait for an answer, and for the connection [s].
    reconnect_max_s
        Longest pause between attempts to connect [s].
    round_trip_s, bytes_per_s
        What a request costs; decides whether a hole between registers is read [s], [B/s].
    """

    protocol: Literal["modbus-tcp"]
    host: str
    port: Port = 502
    timeout_s: Seconds = 1.0
    reconnect_max_s: Seconds = 15.0
    round_trip_s: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    bytes_per_s: float = Field(default=100_000.0, gt=0, allow_inf_nan=False)


class OpcUa(_Named):
    """A connection to an OPC-UA server.

    Attributes
    ----------
    endpoint
        Such as ``opc.tcp://host:4840``.
    timeout_s
        Longest wait for an answer [s].
    reconnect_max_s
        Longest pause between attempts to connect [s].
    nodes_per_read
        Most nodes in one read; halved when the server refuses.
    """

    protocol: Literal["opcua"]
    endpoint: str = Field(pattern=r"^opc\.tcp://[^/\s]+")
    timeout_s: Seconds = 4.0
    reconnect_max_s: Seconds = 15.0
    nodes_per_read: int = Field(default=200, ge=1, le=10_000)


Connection = Annotated[ModbusTcp | OpcUa, Field(discriminator="protocol")]


class Tag(_Named):
    """A value of a device: one of its model's fields with some keys replaced, or a field of its own.

    Attributes
    ----------
    field
        The model's field that it stands on; by default the one of its own name, if there is one.
    quantity, unit, kind, medium
        See `protocols.quantities`.
    table, address, type, word_order, byte_order, no_value
        Modbus; see `protocols.meters.schema.Field`.
    node, value_type
        OPC-UA: node id such as ``ns=2;s=Kiln.Feed``, and how the value is stored (default float).
    scale, offset
        ``value = raw * scale + offset``.
    modulus, max_rate_per_h, accuracy_class, gap_limit_s, heartbeat_s
        See `protocols.birth.Point`.
    """

    field: str | None = None
    quantity: str | None = None
    unit: str | None = None
    kind: Kind | None = None
    medium: Medium | None = None
    table: TableName | None = None
    address: int | None = Field(default=None, ge=0, le=65_535)
    type: RegisterType | None = None
    word_order: Order | None = None
    byte_order: Order | None = None
    no_value: int | None = None
    node: str | None = None
    value_type: ValueType | None = None
    scale: float | None = None
    offset: float | None = None
    modulus: float | None = None
    max_rate_per_h: float | None = None
    accuracy_class: str | None = None
    gap_limit_s: Seconds | None = None
    heartbeat_s: Seconds | None = None


class Device(_Named):
    """A device, or a group of nodes of a server.

    Attributes
    ----------
    connection
        Name of a connection.
    unit_id
        Modbus.
    model
        Meter model of the catalogue.
    tags
        Fields of the model to read; all by default.
    tag
        Fields changed or added.
    medium, word_order, byte_order
        Defaults of its own tags.
    limits
        What replaces the model's limits.
    poll_interval_s, phase_s
        Plant time between polls, and offset of the polls from whole multiples of it [s].
    gap_limit_s
        A longer distance between two valid readings is a gap [s].
    heartbeat_s
        If given, an unchanged value is sent only this often [s]. OPC-UA: a third of the gap limit by default.
    serial
        Serial number of the device.
    """

    connection: str
    unit_id: int | None = Field(default=None, ge=0, le=255)
    model: str | None = None
    tags: tuple[str, ...] | None = None
    tag: tuple[Tag, ...] = ()
    medium: Medium | None = None
    word_order: Order | None = None
    byte_order: Order | None = None
    limits: Limits | None = None
    poll_interval_s: Seconds | None = None
    phase_s: float = Field(default=0.0, ge=0)
    gap_limit_s: Seconds | None = None
    heartbeat_s: Seconds | None = None
    serial: str | None = None


class AgentConfig(Model):
    """The whole of `agent.toml`."""

    agent: Agent
    clock: ClockSettings = ClockSettings()
    buffer: Buffer
    batch: Batching = Batching()
    polling: Polling = Polling()
    mqtt: Mqtt
    connection: tuple[Connection, ...]
    device: tuple[Device, ...]


def _checked_name(what: str, value: str) -> str:
    try:
        return topics.check_name(what, value)
    except ProtocolError as error:
        raise ValueError(str(error)) from error
