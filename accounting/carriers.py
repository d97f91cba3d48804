"""Carriers: what a plant uses, the unit its accounts are kept in, and which CO₂ factor applies.

One table is the truth. Fuels have the names of the fuel table in `accounting.factors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from accounting.errors import CarrierError

Emission = Literal["grid", "fuel", "heat", "none"]


@dataclass(frozen=True, slots=True)
class Carrier:
    """Something that processes use.

    Attributes
    ----------
    name
        Identifier in plant models and results.
    unit
        Canonical unit; accounts are kept in millionths of it.
    emission
        Which kind of factor turns use into CO₂. "none": its use emits nothing by itself (what making it
        emitted is in the account of whoever made it).
    """

    name: str
    unit: str
    emission: Emission


CARRIERS: dict[str, Carrier] = {
    c.name: c
    for c in (
        Carrier("electricity", "kWh", "grid"),
        Carrier("heat", "GJ", "heat"),
        Carrier("water", "m3", "none"),
        Carrier("compressed_air", "Nm3", "none"),
        Carrier("anthracite", "t", "fuel"),
        Carrier("bituminous coal", "t", "fuel"),
        Carrier("lignite", "t", "fuel"),
        Carrier("coke", "t", "fuel"),
        Carrier("fuel oil", "t", "fuel"),
        Carrier("gasoline", "t", "fuel"),
        Carrier("diesel", "t", "fuel"),
        Carrier("LPG", "t", "fuel"),
        Carrier("LNG", "t", "fuel"),
        Carrier("natural gas", "Nm3", "fuel"),
        Carrier("coke-oven gas", "Nm3", "fuel"),
        Carrier("blast-furnace gas", "Nm3", "fuel"),
        Carrier("converter gas", "Nm3", "fuel"),
    )
}


def carrier(name: str) -> Carrier:
    """Look a carrier up.

    Raises
    ------
    CarrierError
        If there is none of that name; the message lists those that exist.
    """
    try:
        return CARRIERS[name]
    except KeyError:
        raise CarrierError(f"carrier {name!r} is unknown; known: {', '.join(sorted(CARRIERS))}") from None
