"""What a plant does, as the fleet file says: steps, machines and their stops, uses, the main meter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import date, time
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pydantic
from pydantic import ConfigDict, Field, field_validator, model_validator

from protocols import topics
from protocols.config import Model
from protocols.errors import ProtocolError


def _name(value: str) -> str:
    try:
        return topics.check_name("name", value)
    except ProtocolError as error:
        raise ValueError(str(error)) from error


Name = Annotated[str, pydantic.AfterValidator(_name)]


class Finite(Model):
    """Base of the fleet file's models: neither infinite numbers nor NaN."""

    model_config = ConfigDict(allow_inf_nan=False)


def distinct(what: str, names: Iterable[object]) -> None:
    """Refuse names that occur more than once.

    Raises
    ------
    ValueError
        Naming the first of them.
    """
    twice = sorted(str(name) for name, times in Counter(names).items() if times > 1)
    if twice:
        raise ValueError(f"two {what} {twice[0]!r}; allowed: one of each")


class PlantConfig(Finite):
    """What the whole plant has in common.

    Attributes
    ----------
    name
        Also the name space of the OPC-UA servers: ``urn:metercarbon:sim:<name>``.
    timezone
        Plant days are days there.
    seed
        The same seed gives the same plant.
    start
        Plant day at whose midnight all totals are 0 and counters show their `start` value. None: the day
        before the one in which the clock has its origin.
    grid_s
        Rates are constant over so long [s].
    """

    name: Name
    timezone: str
    seed: int = Field(default=1, ge=0, lt=2**63)
    start: date | None = None
    grid_s: Literal[1, 2, 5, 10, 15, 20, 30, 60] = 10

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"timezone {value!r} is unknown; allowed: names such as Asia/Shanghai") from error
        return value


class Stop(Finite):
    """A time in which a machine stands.

    Attributes
    ----------
    start
        In TOML ``from``: time of day. None: at any time of the day.
    minutes
        Shortest and longest duration [min].
    jitter_minutes
        The start varies by up to this, both ways [min].
    probability
        That it happens on a day.
    """

    start: time | None = Field(default=None, alias="from")
    minutes: tuple[float, float]
    jitter_minutes: float = Field(default=0.0, ge=0, le=120)
    probability: float = Field(default=1.0, ge=0, le=1)

    @field_validator("minutes")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1200:
            raise ValueError(f"minutes {list(value)}; allowed: [shortest, longest], above 0 and up to 1200")
        return value


class Machine(Finite):
    """Something that runs or stands, and makes the step's product while it runs.

    Attributes
    ----------
    rate_per_h
        Output in normal running [unit of the step per h].
    ramp_minutes
        From standstill to full load, and back [min].
    noise
        Standard deviation of the load in normal running, relative.
    stops
        In TOML ``[[step.machine.stop]]``.
    """

    name: Name
    rate_per_h: float = Field(gt=0)
    ramp_minutes: float = Field(default=5.0, ge=0, le=120)
    noise: float = Field(default=0.02, ge=0, le=0.2)
    stops: tuple[Stop, ...] = Field(default=(), alias="stop")


class Step(Finite):
    """A production step; its output is the series of its name.

    Attributes
    ----------
    unit
        Of the output.
    machines
        In TOML ``[[step.machine]]``; the step's output is the sum of theirs.
    """

    name: Name
    unit: str = "t"
    machines: tuple[Machine, ...] = Field(alias="machine", min_length=1)


class Period(Finite):
    """A specific use from a plant day on.

    Attributes
    ----------
    first_day
        In TOML ``from``.
    specific_use
        Use per unit of output [unit of the use per unit of output].
    """

    first_day: date = Field(alias="from")
    specific_use: float = Field(ge=0)


class UseMeter(Finite):
    """A part of a use; the series of its name is what it truly uses (or makes).

    Attributes
    ----------
    share
        Part of the use while running; the shares of a use add up to 1.
    idle
        Drawn at all times, and alone while standing [unit of the use per h].
    fixed
        Part of the running draw that does not follow the load.
    vary
        Standard deviation of the share in time, relative.
    follows
        Machines or series that make it run. Empty: the machines of the steps in `of`, or what `of` names.
    """

    name: Name
    share: float = Field(default=1.0, gt=0, le=1)
    idle: float = Field(default=0.0, ge=0)
    fixed: float = Field(default=0.2, ge=0, le=1)
    vary: float = Field(default=0.02, ge=0, le=0.2)
    follows: tuple[Name, ...] = ()


class Use(Finite):
    """What is used (or made) in proportion to an output: over each plant day exactly so, idle draw included.

    Attributes
    ----------
    name
        As the truth log reports it.
    of
        Steps, or meters of uses further up, whose sum it is proportional to.
    unit
        Of the use.
    periods
        In TOML ``[[use.period]]``, by ascending day; days before the first take the first.
    meters
        In TOML ``[[use.meter]]``.
    """

    name: Name
    of: tuple[Name, ...] = Field(min_length=1)
    unit: str
    periods: tuple[Period, ...] = Field(alias="period", min_length=1)
    meters: tuple[UseMeter, ...] = Field(alias="meter", min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        total = sum(meter.share for meter in self.meters)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"shares of the meters add up to {total:g}; allowed: 1")
        days = [period.first_day for period in self.periods]
        if sorted(set(days)) != days:
            raise ValueError(f"periods begin on {', '.join(map(str, days))}; allowed: ascending, each day once")
        return self


class MainMeter(Finite):
    """The meter that measures what is bought: branches + loss - generation, never below 0.

    Attributes
    ----------
    name
        Series of what is bought.
    export_name
        Series of what flows back when generation is larger.
    loss_name
        Series of the loss.
    branches, generation
        Series.
    loss
        Constant part of the branches' sum that is lost.
    loss_at_rated
        Further part that grows with the load, and is this at the rated load.
    rated
        Rated load [unit per h].
    """

    name: Name
    export_name: Name
    loss_name: Name
    branches: tuple[Name, ...] = Field(min_length=1)
    generation: tuple[Name, ...] = ()
    loss: float = Field(default=0.01, ge=0, lt=1)
    loss_at_rated: float = Field(default=0.0, ge=0, lt=1)
    rated: float = Field(gt=0)
