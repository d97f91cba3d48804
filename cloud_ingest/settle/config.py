"""Configuration of settle: the ``[settle]`` part of ``ingest.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, field_validator, model_validator

from protocols import topics
from protocols.config import Model
from protocols.errors import ProtocolError


class PlantFile(Model):
    """A plant model whose accounts are kept.

    Attributes
    ----------
    tenant
        Whose plant it is.
    file
        Path of its ``plant.toml``; relative ones count from the directory of ``ingest.toml``.
    """

    tenant: str
    file: str = Field(min_length=1)

    @field_validator("tenant")
    @classmethod
    def _tenant(cls, value: str) -> str:
        try:
            return topics.check_name("tenant", value)
        except ProtocolError as error:
            raise ValueError(str(error)) from error


class SettleConfig(Model):
    """How accounts are kept.

    Attributes
    ----------
    plant
        Plant models.
    poll_interval_s
        Real time between two looks at the change feed when there is nothing to do [s].
    closing_delay_s
        Plant time after the end of an interval at which its account becomes final even if some meter has not
        been heard of since [s]. Later data still changes it, as a new revision.
    estimate_limit_s
        Longest silence of a counter whose use is split by time; over a longer one the use stays unknown [s].
    max_readings_per_round
        About how many readings one round fetches; the rest of the feed waits for the next round.
    """

    plant: tuple[PlantFile, ...] = ()
    poll_interval_s: float = Field(default=0.5, gt=0, le=3600)
    closing_delay_s: float = Field(default=86_400.0, ge=0)
    estimate_limit_s: float = Field(default=31 * 86_400.0, gt=0)
    max_readings_per_round: int = Field(default=1_000_000, ge=1000)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        seen: set[Sequence[str]] = set()
        for plant in self.plant:
            if (plant.tenant, plant.file) in seen:
                raise ValueError(f"plant file {plant.file!r} of tenant {plant.tenant!r} is named twice; allowed: once")
            seen.add((plant.tenant, plant.file))
        return self
