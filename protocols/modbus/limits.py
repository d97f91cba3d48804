"""What a Modbus device can take: the limits that requests to it keep."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from protocols.config import Model

TableName = Literal["coil", "discrete", "input", "holding"]
"""Data tables: read by functions 1, 2, 4 and 3."""

MAX_REGISTERS = 125
"""Most registers that one Modbus response can carry."""
MAX_COILS = 2000
"""Most coils or discrete inputs that one Modbus response can carry."""


class Limits(Model):
    """Limits of one device.

    Attributes
    ----------
    max_registers, max_coils
        Most registers, or coils and discrete inputs, per request.
    pause_between_requests_ms
        Least time from an answer to the next request [ms].
    pause_after_connect_ms
        Least time from the connection to the first request [ms].
    one_field_per_request
        The device answers only requests for exactly one of its fields.
    coils_from_zero
        The device answers a first request for coils only if it begins at address 0.
    close_after_poll
        The device wants the connection closed after each poll, or holds it against others.
    max_connections
        Connections it serves at the same time.
    """

    max_registers: int = Field(default=MAX_REGISTERS, ge=1, le=MAX_REGISTERS)
    max_coils: int = Field(default=MAX_COILS, ge=1, le=MAX_COILS)
    pause_between_requests_ms: float = Field(default=0.0, ge=0, le=60_000)
    pause_after_connect_ms: float = Field(default=0.0, ge=0, le=60_000)
    one_field_per_request: bool = False
    coils_from_zero: bool = False
    close_after_poll: bool = False
    max_connections: int = Field(default=1, ge=1, le=100)

    def most(self, table: TableName) -> int:
        """Most entries of a table in one request."""
        return self.max_registers if table in ("input", "holding") else self.max_coils
