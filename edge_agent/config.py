"""`agent.toml`: what it may say. Whether its devices make sense together is checked in `points`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from protocols import topics
from protocols.clock import ClockConfig
from protocols.config import Model
from protocols.errors import ProtocolError
from protocols.meters.schema import Limits, Order, RegisterMap, RegisterType, SourceStatus, TableName
from protocols.modbus.requests import Cost
from protocols.quantities import Kind, Medium
from protocols.reading import ValueType

Seconds = Annotated[float, Field(gt=0, le=86_400 * 366, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65_535)]
_PUBLISHES_PER_SILENCE = 3
_SHA256_DIGITS = 64
OpcUaMode = Literal["poll", "subscribe"]
_REQUEST_BYTES = 8
"""A serial frame that asks for registers or coils."""
_ANSWER_BYTES = 5
"""A serial frame with an answer, without the data in it."""


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


class Buffer(Model):
    """The disk buffer.

    Attributes
    ----------
    path
        SQLite file; made if missing. Two agents never share one.
    max_bytes
        Most that the file and its log may take [B]; beyond it readings never sent are thinned, then dropped.
    free_space_floor_bytes
        What is to stay free on the file system [B]: with less the buffer comes down as at its limit, though
        not below a few MB. By default 200 MB, or a twentieth of a smaller file system than 4 GB.
    retain_committed_s, retain_committed_bytes
        How long, and how much of, what the store has is kept for the case that the store is restored [s], [B].
    hold_unsynchronised_s
        A gateway may start before its clock is set. Until it is synchronised readings wait, then they are re-timed;
        once there is a connection to the broker, for so long at most [s], real time. 0: they do not wait.
    """

    path: Path
    max_bytes: int = Field(default=1_000_000_000, ge=1_000_000)
    free_space_floor_bytes: int | None = Field(default=None, ge=0)
    retain_committed_s: float = Field(default=7 * 86_400.0, ge=0)
    retain_committed_bytes: int = Field(default=200_000_000, ge=0)
    hold_unsynchronised_s: float = Field(default=60.0, ge=0, allow_inf_nan=False)


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
        The agent's own certificate, where the broker wants one; the key without passphrase.

    All are read anew for each connection, so that they may be renewed while the agent runs.
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
    fallback
        Whether a broker that does not take version 5 is spoken to in 3.1.1, in which it can't refuse a message.
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
    status_interval_s
        Real time between status messages [s]; 0: none.
    """

    host: str
    port: Port = 1883
    version: Literal[5, 3] = 5
    fallback: bool = True
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
    status_interval_s: float = Field(default=60.0, ge=0, le=86_400, allow_inf_nan=False)

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


class _Modbus(_Named):
    """What all Modbus connections have: their units share them, one request at a time.

    Attributes
    ----------
    timeout_s
        Longest wait for an answer, and for the connection [s].
    reconnect_max_s
        Longest pause between attempts to connect [s].
    """

    timeout_s: Seconds = 1.0
    reconnect_max_s: Seconds = 15.0


class ModbusTcp(_Modbus):
    """A connection to a Modbus TCP device or gateway.

    Attributes
    ----------
    round_trip_s, bytes_per_s
        What a request costs; decides whether a hole between registers is read [s], [B/s].
    """

    protocol: Literal["modbus-tcp"]
    host: str
    port: Port = 502
    round_trip_s: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    bytes_per_s: float = Field(default=100_000.0, gt=0, allow_inf_nan=False)

    @property
    def where(self) -> str:
        """Where it leads, for people."""
        return f"{self.host}:{self.port}"

    def cost(self) -> Cost:
        """What a request costs."""
        return Cost(self.round_trip_s, self.bytes_per_s)


class ModbusRtuTcp(_Modbus):
    """A TCP connection that carries serial frames, as serial device servers in transparent mode do.

    Attributes
    ----------
    round_trip_s, bytes_per_s
        As for Modbus TCP; by default those of a line at 9600 Bd.
    """

    protocol: Literal["modbus-rtu-tcp"]
    host: str
    port: Port
    round_trip_s: float = Field(default=0.04, ge=0, allow_inf_nan=False)
    bytes_per_s: float = Field(default=960.0, gt=0, allow_inf_nan=False)

    @property
    def where(self) -> str:
        """Where it leads, for people."""
        return f"{self.host}:{self.port}, serial frames"

    def cost(self) -> Cost:
        """What a request costs."""
        return Cost(self.round_trip_s, self.bytes_per_s)


class ModbusRtu(_Modbus):
    """A serial port with Modbus units on its line.

    Attributes
    ----------
    port
        Device file such as ``/dev/ttyUSB0``; only one connection may name it.
    baudrate
        Speed of the line [Bd].
    parity
        N(one), E(ven) or O(dd).
    stopbits, bytesize
        Bits of a character; frames of this kind need 8 data bits.
    timeout_s
        Longest wait for an answer, beyond the time that request and answer take on the wire [s].
    turnaround_s
        How long a unit usually takes to begin its answer; for planning [s].
    """

    protocol: Literal["modbus-rtu"]
    port: str = Field(min_length=1)
    baudrate: int = Field(default=9600, ge=300, le=4_000_000)
    parity: Literal["N", "E", "O"] = "N"
    stopbits: int = Field(default=1, ge=1, le=2)
    bytesize: int = Field(default=8, ge=8, le=8)
    timeout_s: Seconds = 0.5
    turnaround_s: float = Field(default=0.02, ge=0, allow_inf_nan=False)

    @property
    def where(self) -> str:
        """Where it leads, for people."""
        return f"{self.port}, {self.baudrate} Bd {self.bytesize}{self.parity}{self.stopbits}"

    @property
    def character_s(self) -> float:
        """Time of one character on the wire [s]."""
        return (1 + self.bytesize + (self.parity != "N") + self.stopbits) / self.baudrate

    @property
    def silence_s(self) -> float:
        """Silence that separates frames [s]: 3.5 characters, and not less than at 19200 Bd."""
        return max(3.5 * self.character_s, 0.00175)

    def wire_s(self, data_bytes: int) -> float:
        """Time on the wire of a request and an answer with so many bytes of data, silences included [s]."""
        return (_REQUEST_BYTES + _ANSWER_BYTES + data_bytes) * self.character_s + 2 * self.silence_s

    def cost(self) -> Cost:
        """What a request costs."""
        return Cost(self.turnaround_s + self.wire_s(0), 1 / self.character_s)


Modbus = ModbusTcp | ModbusRtuTcp | ModbusRtu


class OpcUaSecurity(Model):
    """A signed, or signed and encrypted, channel to an OPC-UA server whose certificate is known.

    Attributes
    ----------
    policy, mode
        As the server offers them.
    certificate_file, key_file
        The agent's own certificate; the server must trust it.
    directory
        Without those: where the agent makes a certificate, and renews it before it ends.
    server_certificate_file, server_fingerprint
        The server's certificate, or its SHA-256 in hex. Any other one is refused.
    """

    policy: Literal["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"] = "Basic256Sha256"
    mode: Literal["Sign", "SignAndEncrypt"] = "SignAndEncrypt"
    certificate_file: Path | None = None
    key_file: Path | None = None
    directory: Path | None = None
    server_certificate_file: Path | None = None
    server_fingerprint: str | None = None

    @field_validator("server_fingerprint")
    @classmethod
    def _hex(cls, value: str | None) -> str | None:
        if value is None:
            return None
        digits = value.replace(":", "").lower()
        if len(digits) != _SHA256_DIGITS or not set(digits) <= set("0123456789abcdef"):
            raise ValueError(f"{value!r}; allowed: 64 hex digits, with or without colons")
        return digits

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file or key_file is missing; allowed: both, or a directory")
        if (self.certificate_file is None) == (self.directory is None):
            raise ValueError("allowed: either certificate_file and key_file, or a directory")
        if (self.server_certificate_file is None) == (self.server_fingerprint is None):
            raise ValueError(
                "allowed: either server_certificate_file or server_fingerprint, for the server to be known"
            )
        return self


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
    mode
        "poll": nodes are read at the poll interval. "subscribe": the server sends what changes, and only
        what it does not send is read.
    publish_interval_s, sampling_interval_s
        Subscriptions: how often the server sends, and looks at its nodes (default: as often), real time [s].
    items_per_call
        Most monitored items made in one call; halved when the server refuses.
    silence_limit_s
        A subscription from which nothing was heard for so long is made again, real time [s].
    reconcile_interval_s
        Time between comparisons of the wanted items with those that the server has, real time [s].
    security
        Without it nothing is signed, encrypted or checked.
    username, password_file, password_env
        Who the agent is to the server; the password is in a file or an environment variable, never here.
    user_certificate_file, user_key_file
        Instead: who the agent is, by certificate.
    """

    protocol: Literal["opcua"]
    endpoint: str = Field(pattern=r"^opc\.tcp://[^/\s]+")
    timeout_s: Seconds = 4.0
    reconnect_max_s: Seconds = 15.0
    nodes_per_read: int = Field(default=200, ge=1, le=10_000)
    mode: OpcUaMode = "poll"
    publish_interval_s: Seconds = 1.0
    sampling_interval_s: Seconds | None = None
    items_per_call: int = Field(default=200, ge=1, le=10_000)
    silence_limit_s: Seconds = 10.0
    reconcile_interval_s: Seconds = 30.0
    security: OpcUaSecurity | None = None
    username: str | None = None
    password_file: Path | None = None
    password_env: str | None = None
    user_certificate_file: Path | None = None
    user_key_file: Path | None = None

    @model_validator(mode="after")
    def _one_user(self) -> Self:
        passwords = [key for key in ("password_file", "password_env") if getattr(self, key) is not None]
        if len(passwords) > 1:
            raise ValueError("password_file and password_env are both given; allowed: one of them")
        if (self.username is None) != (not passwords):
            raise ValueError("username without password, or the reverse; allowed: both, or neither")
        if (self.user_certificate_file is None) != (self.user_key_file is None):
            raise ValueError("user_certificate_file or user_key_file is missing; allowed: both or neither")
        if self.user_certificate_file is not None and self.username is not None:
            raise ValueError("username and user_certificate_file are both given; allowed: one of them")
        if self.user_certificate_file is not None and self.security is None:
            raise ValueError("user_certificate_file without security; allowed: with [connection.security]")
        return self

    @model_validator(mode="after")
    def _patient(self) -> Self:
        least_s = _PUBLISHES_PER_SILENCE * self.publish_interval_s
        if self.silence_limit_s < least_s:
            raise ValueError(
                f"silence_limit_s {self.silence_limit_s:g} with publish_interval_s {self.publish_interval_s:g}; "
                f"allowed: at least {least_s:g}"
            )
        return self


Connection = Annotated[ModbusTcp | ModbusRtuTcp | ModbusRtu | OpcUa, Field(discriminator="protocol")]


class Tag(_Named):
    """A value of a device: one of its model's fields with some keys replaced, or a field of its own.

    Attributes
    ----------
    field
        The model's field that it stands on; by default the one of its own name, if there is one.
    quantity, unit, kind, medium
        See `protocols.quantities`.
    table, address, type, bit, length, word_order, byte_order, no_value
        Modbus; see `protocols.meters.schema.Field`.
    keep_raw
        Modbus: whether the registers are kept for audit as they came, as hexadecimal text in a point of their
        own, ``<tag>.raw``. By default what the device says.
    node, value_type
        OPC-UA: node id such as ``ns=2;s=Kiln.Feed``, and how the value is stored (default float).
    deadband, deadband_percent
        Report by exception: changes up to this are not sent [unit], [% of the value sent last]; but the last
        reading before a larger one is, and one per heartbeat. OPC-UA subscriptions: the server does not send
        them, and the percentage is one of the node's range.
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
    bit: int | None = Field(default=None, ge=0, le=15)
    length: int | None = Field(default=None, ge=1, le=125)
    word_order: Order | None = None
    byte_order: Order | None = None
    no_value: int | None = None
    keep_raw: bool | None = None
    node: str | None = None
    value_type: ValueType | None = None
    deadband: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    deadband_percent: float | None = Field(default=None, gt=0, le=100)
    scale: float | None = None
    offset: float | None = None
    modulus: float | None = None
    max_rate_per_h: float | None = None
    accuracy_class: str | None = None
    gap_limit_s: Seconds | None = None
    heartbeat_s: Seconds | None = None


_TAGS = TypeAdapter(tuple[Tag, ...])


_known_lists: dict[str, tuple[Tag, ...]] = {}
_MOST_LISTS = 16


def _checked_tags(value: Any) -> tuple[Tag, ...]:
    """A list of tags; equal ones are checked once, and are one object."""
    text = repr(value)
    found = _known_lists.get(text)
    if found is None:
        found = _TAGS.validate_python(value)
        if len(_known_lists) == _MOST_LISTS:
            _known_lists.clear()
        _known_lists[text] = found
    return found


def forget_lists() -> None:
    """Forget the lists of tags that were kept so that equal ones are one object."""
    _known_lists.clear()


class OwnModel(RegisterMap):
    """A model that the catalogue lacks, in the form of its files; any number of devices may name it.

    Attributes
    ----------
    name
        What devices call it.
    maker, model, source, source_status
        As in the catalogue, where they are known.
    """

    name: str = Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$")
    maker: str = ""
    model: str = ""
    source: str = ""
    source_status: SourceStatus = "recalled"


class Device(_Named):
    """A device, or a group of nodes of a server.

    Attributes
    ----------
    connection
        Name of a connection.
    unit_id
        Modbus.
    model
        Meter model: a ``[[model]]`` of this file, or one of the catalogue.
    tags
        Fields of the model to read; all by default.
    tag
        Fields changed or added.
    medium, word_order, byte_order
        Defaults of its own tags.
    keep_raw
        Whether the registers of its tags are kept too; see `Tag`.
    address_base
        Number that its own tags call the first address of a table: 0 as in requests, 1 as in many manuals.
    limits
        What replaces the model's limits.
    poll_interval_s, phase_s
        Plant time between polls, and offset of the polls from whole multiples of it [s].
    gap_limit_s
        A longer distance between two valid readings is a gap [s].
    heartbeat_s
        If given, an unchanged value is sent only this often [s]. OPC-UA: a third of the gap limit by default.
    mode, sampling_interval_s
        OPC-UA: what replaces those of the connection.
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
    address_base: int | None = Field(default=None, ge=0, le=1)
    keep_raw: bool | None = None
    limits: Limits | None = None
    poll_interval_s: Seconds | None = None
    phase_s: float = Field(default=0.0, ge=0)
    gap_limit_s: Seconds | None = None
    heartbeat_s: Seconds | None = None
    mode: OpcUaMode | None = None
    sampling_interval_s: Seconds | None = None
    serial: str | None = None

    @field_validator("tag", mode="before")
    @classmethod
    def _alike(cls, value: Any) -> Any:
        try:
            return _checked_tags(value)
        except ValidationError:
            # Checked again as a part of the device, it is explained by its place.
            return value

    @field_validator("serial")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("holds a NUL character, which a database could not store")
        return value


class Metrics(Model):
    """Where the agent serves its metrics, for Prometheus; without this table it does not.

    Attributes
    ----------
    host, port
        Address to listen on; metrics are under ``/metrics``.
    """

    host: str = "127.0.0.1"
    port: Port


class AgentConfig(Model):
    """The whole of `agent.toml`."""

    agent: Agent
    clock: ClockConfig = ClockConfig()
    buffer: Buffer
    batch: Batching = Batching()
    polling: Polling = Polling()
    mqtt: Mqtt
    metrics: Metrics | None = None
    connection: tuple[Connection, ...]
    model: tuple[OwnModel, ...] = ()
    device: tuple[Device, ...]


def _checked_name(what: str, value: str) -> str:
    try:
        return topics.check_name(what, value)
    except ProtocolError as error:
        raise ValueError(str(error)) from error
