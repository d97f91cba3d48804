"""Configuration of ingest: the ``[mqtt]`` and ``[ingest]`` parts of ``ingest.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from protocols import topics
from protocols.config import Model
from protocols.errors import TopicError


class TlsConfig(Model):
    """``[mqtt.tls]``.

    Attributes
    ----------
    ca_file
        Certificates to trust; None: those of the system.
    cert_file, key_file
        Our own certificate, where the broker asks for one.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together; allowed: both or neither")
        return self


class MqttConfig(Model):
    """``[mqtt]``: the broker.

    Attributes
    ----------
    host, port
        Where it listens.
    version
        5, or 3 for MQTT 3.1.1: then the broker alone bounds what is in flight to us.
    client_id
        Stable and unique among the clients of the broker: the broker keeps the session under it.
    group
        Name of a shared subscription, so that several workers divide the messages; version 5 only.
    username, password_file
        Credentials.
    tls
        Present: encrypted.
    keepalive_s
        Longest silence on the connection [s].
    session_expiry_s
        How long the broker keeps the session while we are away [s]; version 5 only.
    receive_maximum
        Most messages that the broker may have in flight to us without our acknowledgement.
    """

    host: str
    port: int = Field(default=1883, ge=1, le=65535)
    version: Literal[5, 3] = 5
    client_id: str = Field(default="metercarbon-ingest", min_length=1, max_length=200)
    group: str | None = None
    username: str | None = None
    password_file: Path | None = None
    tls: TlsConfig | None = None
    keepalive_s: int = Field(default=30, ge=5, le=3600)
    session_expiry_s: int = Field(default=7 * 86_400, ge=60, le=2**32 - 2)
    receive_maximum: int = Field(default=500, ge=1, le=65535)

    @field_validator("version", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        # An environment variable can only be text.
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @model_validator(mode="after")
    def _group(self) -> Self:
        if self.group is not None:
            if self.version != 5:
                raise ValueError(f"group {self.group!r} with version 3; allowed: with version 5 only")
            try:
                topics.check_name("group", self.group)
            except TopicError as error:
                raise ValueError(str(error)) from error
        return self


Registration = Literal["automatic", "known"]
"""``automatic``: tenants, sites and agents are registered when they first send; ``known``: by hand only."""


class IngestConfig(Model):
    """``[ingest]``.

    Attributes
    ----------
    registration
        Whether new tenants, sites and agents are registered when they first send (``automatic``), or what they
        send goes to the dead letters until they are added by hand (``known``).
    flush_readings
        Readings that make a flush.
    flush_s
        Longest wait for them [s].
    writers
        Threads that write, each with its own connection.
    max_ahead_s
        Readings further in the future than this are quarantined [s].
    announce_s
        Least distance of committed messages [s].
    sweep_s
        Distance of searches for parked data whose schema has come [s].
    feed_keep_s
        How long rows of the change feed stay after every follower has passed them [s].
    ledger_keep_s
        How long ledger rows of stored messages stay once they are folded [s]; a message that comes again later
        is still known as a duplicate, but its content is no longer compared.
    """

    registration: Registration = "automatic"
    flush_readings: int = Field(default=20_000, ge=1, le=1_000_000)
    flush_s: float = Field(default=0.1, gt=0, le=60)
    writers: int = Field(default=1, ge=1, le=16)
    max_ahead_s: float = Field(default=600.0, ge=0)
    announce_s: float = Field(default=0.5, gt=0, le=60)
    sweep_s: float = Field(default=10.0, gt=0, le=3600)
    feed_keep_s: float = Field(default=86_400.0, ge=0)
    ledger_keep_s: float = Field(default=30 * 86_400.0, ge=0)
