"""What a factor is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

from accounting.errors import FactorKindError

Policy = Literal["exact", "latest-published"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


class Kind(StrEnum):
    """What a factor may be used for; two kinds are never interchangeable."""

    FUEL = "fuel"
    GRID_LOCATION = "grid location"
    GRID_RESIDUAL = "grid residual"
    GRID_FOSSIL = "grid fossil only"
    GRID_LIFE_CYCLE = "grid life-cycle"
    ETS = "ets"
    HEAT = "heat"
    PROCESS = "process"
    COAL_EQUIVALENT = "coal equivalent"
    LIMIT = "limit"
    PRICE = "price"
    ENERGY_CONTENT = "energy content"


GRID_KINDS = (Kind.GRID_LOCATION, Kind.GRID_RESIDUAL, Kind.GRID_FOSSIL, Kind.GRID_LIFE_CYCLE, Kind.ETS)
"""Kinds that hold for a region and a year."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One value of a factor table.

    Attributes
    ----------
    kind
        What it may be used for.
    substance
        What it is the factor of.
    value, unit
        The factor.
    region
        Where it holds; empty: anywhere.
    basis
        Which of several definitions it follows; empty: there is one only.
    year
        Year it holds for; None: not dated.
    source, published
        Document it comes from, and when that was published as far as known.
    status
        "seen": read in the source; "recalled": from memory, to be verified.
    version
        Digest of the tables it was read from.
    provisional
        It stands in for a later year whose factor was not there.
    """

    kind: Kind
    substance: str
    value: float
    unit: str
    region: str = ""
    basis: str = ""
    year: int | None = None
    source: str = ""
    published: str = ""
    status: str = ""
    version: str = ""
    provisional: bool = False

    def require(self, *kinds: Kind) -> None:
        """Refuse the factor unless it is of one of the kinds.

        Raises
        ------
        FactorKindError
            Naming the factor's kind and those allowed.
        """
        if self.kind not in kinds:
            raise FactorKindError(
                f"factor of {self.substance!r} is of kind {self.kind.value!r}; allowed here: "
                f"{', '.join(kind.value for kind in kinds)}"
            )
