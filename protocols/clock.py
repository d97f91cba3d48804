"""The ``[clock]`` section of agents and fleets: given the same three numbers, they share plant time."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from protocols.config import Model
from protocols.timebase import REAL_TIME, US, TimeBase


class ClockConfig(Model):
    """Plant time: real by default, else simulated.

    Attributes
    ----------
    origin
        Plant time at the anchor, with its offset from UTC; None or "": plant time is real time.
    anchor_us
        Real time of the anchor [µs UTC]; 0: when the process starts.
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

    def time_base(self, started_us: int) -> TimeBase:
        """The clock of a process that started at `started_us` [µs UTC]."""
        if self.origin is None:
            return REAL_TIME
        return TimeBase(round(self.origin.timestamp() * US), self.anchor_us or started_us, self.speed)
