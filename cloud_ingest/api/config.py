"""Configuration of the HTTP API: the ``[api]`` part of ``ingest.toml``."""

from __future__ import annotations

from pydantic import Field, field_validator

from protocols import topics
from protocols.config import Model
from protocols.errors import ProtocolError


class ApiConfig(Model):
    """Where the API listens, and how much one request may ask for.

    Attributes
    ----------
    host, port
        Address to listen on. Loopback unless told otherwise: there is no access control yet.
    tenant
        Tenant of requests that name none.
    connections
        Largest number of database connections.
    statement_timeout_s
        Longest time for one query of a request [s].
    max_rows
        Largest ``limit`` of one page.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8090, ge=0, le=65_535)
    tenant: str = "demo"
    connections: int = Field(default=4, ge=1, le=200)
    statement_timeout_s: float = Field(default=30.0, gt=0)
    max_rows: int = Field(default=50_000, ge=1, le=1_000_000)

    @field_validator("tenant")
    @classmethod
    def _tenant(cls, value: str) -> str:
        try:
            return topics.check_name("tenant", value)
        except ProtocolError as error:
            raise ValueError(str(error)) from error
