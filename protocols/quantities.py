"""Quantities, their units and carriers: what may be measured, in which unit, of which medium.

One table is the truth. Values are sent and stored in the point's own unit; `Unit.factor` turns them into
the quantity's canonical unit (the first one listed).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protocols.errors import QuantityError

Kind = Literal["counter", "gauge", "state", "event"]
Medium = Literal[
    "electricity",
    "water",
    "compressed_air",
    "natural_gas",
    "steam",
    "heat",
    "coal",
    "diesel",
    "material",
    "none",
]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of one quantity; ``canonical = value * factor + offset``."""

    symbol: str
    factor: float
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that can be measured.

    Attributes
    ----------
    name
        Identifier used in configuration, births and the API.
    units
        Allowed units; the first is canonical.
    kinds
        How readings of it may behave.
    media
        Media it may be measured of; empty means any.
    """

    name: str
    units: tuple[Unit, ...]
    kinds: tuple[Kind, ...]
    media: tuple[Medium, ...] = ()

    @property
    def canonical_unit(self) -> str:
        """Symbol of the unit that accounts are kept in."""
        return self.units[0].symbol


_FLUIDS: tuple[Medium, ...] = ("water", "compressed_air", "natural_gas", "steam", "heat", "diesel")
_GASES: tuple[Medium, ...] = ("compressed_air", "natural_gas")

QUANTITIES: dict[str, Quantity] = {
    q.name: q
    for q in (
        Quantity(
            "active_energy",
            (Unit("kWh", 1.0), Unit("Wh", 1e-3), Unit("MWh", 1e3), Unit("GJ", 1 / 0.0036)),
            ("counter",),
            ("electricity",),
        ),
        Quantity(
            "reactive_energy",
            (Unit("kvarh", 1.0), Unit("varh", 1e-3), Unit("Mvarh", 1e3)),
            ("counter",),
            ("electricity",),
        ),
        Quantity("active_power", (Unit("kW", 1.0), Unit("W", 1e-3), Unit("MW", 1e3)), ("gauge",), ("electricity",)),
        Quantity(
            "reactive_power",
            (Unit("kvar", 1.0), Unit("var", 1e-3), Unit("Mvar", 1e3)),
            ("gauge",),
            ("electricity",),
        ),
        Quantity(
            "apparent_power",
            (Unit("kVA", 1.0), Unit("VA", 1e-3), Unit("MVA", 1e3)),
            ("gauge",),
            ("electricity",),
        ),
        Quantity("voltage", (Unit("V", 1.0), Unit("kV", 1e3)), ("gauge",), ("electricity",)),
        Quantity("current", (Unit("A", 1.0), Unit("mA", 1e-3), Unit("kA", 1e3)), ("gauge",), ("electricity",)),
        Quantity("power_factor", (Unit("1", 1.0), Unit("%", 0.01)), ("gauge",), ("electricity",)),
        Quantity("frequency", (Unit("Hz", 1.0),), ("gauge",), ("electricity",)),
        Quantity(
            "thermal_energy",
            (Unit("GJ", 1.0), Unit("MJ", 1e-3), Unit("kWh", 0.0036), Unit("MWh", 3.6)),
            ("counter",),
            ("heat", "steam", "water"),
        ),
        Quantity("thermal_power", (Unit("kW", 1.0), Unit("MW", 1e3)), ("gauge",), ("heat", "steam", "water")),
        Quantity("volume", (Unit("m3", 1.0), Unit("L", 1e-3)), ("counter",), _FLUIDS),
        Quantity(
            "volume_flow",
            (Unit("m3/h", 1.0), Unit("L/min", 0.06), Unit("m3/min", 60.0), Unit("L/s", 3.6)),
            ("gauge",),
            _FLUIDS,
        ),
        Quantity("normal_volume", (Unit("Nm3", 1.0),), ("counter",), _GASES),
        Quantity("normal_volume_flow", (Unit("Nm3/h", 1.0), Unit("Nm3/min", 60.0)), ("gauge",), _GASES),
        Quantity(
            "mass",
            (Unit("t", 1.0), Unit("kg", 1e-3)),
            ("counter", "event"),
            ("material", "coal", "steam", "diesel", "water"),
        ),
        Quantity(
            "mass_flow",
            (Unit("t/h", 1.0), Unit("kg/h", 1e-3), Unit("kg/s", 3.6)),
            ("gauge",),
            ("material", "coal", "steam", "diesel", "water"),
        ),
        Quantity("temperature", (Unit("degC", 1.0), Unit("K", 1.0, -273.15)), ("gauge",)),
        Quantity("pressure", (Unit("kPa", 1.0), Unit("Pa", 1e-3), Unit("bar", 100.0), Unit("MPa", 1e3)), ("gauge",)),
        Quantity("ratio", (Unit("1", 1.0), Unit("%", 0.01)), ("gauge",)),
        Quantity("pieces", (Unit("1", 1.0),), ("counter", "event"), ("material",)),
        Quantity("running_time", (Unit("h", 1.0), Unit("s", 1 / 3600), Unit("min", 1 / 60)), ("counter",)),
        Quantity("running", (Unit("1", 1.0),), ("state",)),
        Quantity("state", (Unit("1", 1.0),), ("state",)),
        Quantity("text", (Unit("1", 1.0),), ("state", "event")),
    )
}


def quantity(name: str) -> Quantity:
    """Look a quantity up.

    Raises
    ------
    QuantityError
        If there is none of that name; the message lists those that exist.
    """
    try:
        return QUANTITIES[name]
    except KeyError:
        raise QuantityError(f"quantity {name!r} is unknown; known: {', '.join(sorted(QUANTITIES))}") from None


def unit(quantity_name: str, symbol: str) -> Unit:
    """Look up a unit of a quantity.

    Raises
    ------
    QuantityError
        If the unit does not fit the quantity; the message lists those that do.
    """
    found = quantity(quantity_name)
    for candidate in found.units:
        if candidate.symbol == symbol:
            return candidate
    allowed = ", ".join(u.symbol for u in found.units)
    raise QuantityError(f"unit {symbol!r} does not fit quantity {quantity_name!r}; allowed: {allowed}")


def check(quantity_name: str, symbol: str, kind: str, medium: str) -> None:
    """Check that unit, kind and medium fit a quantity.

    Raises
    ------
    QuantityError
        Naming the first of them that does not fit, and what is allowed.
    """
    found = quantity(quantity_name)
    unit(quantity_name, symbol)
    if kind not in found.kinds:
        raise QuantityError(f"kind {kind!r} does not fit quantity {quantity_name!r}; allowed: {', '.join(found.kinds)}")
    if found.media and medium not in found.media:
        raise QuantityError(
            f"medium {medium!r} does not fit quantity {quantity_name!r}; allowed: {', '.join(found.media)}"
        )
