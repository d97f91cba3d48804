"""Belt scales: mass and mass flow; the belt runs while there is flow."""

from __future__ import annotations

from device_sims.kinds.base import Kind, Value, Wiring
from protocols.meters.schema import Field


def _counted(field: Field) -> str | None:
    return "mass" if field.quantity == "mass" else None


def _bind(wiring: Wiring, field: Field) -> Value | None:
    flow = wiring.rate("mass")
    match field.quantity:
        case "mass":
            return wiring.total("mass")
        case "mass_flow":
            return flow
        case "running":
            return lambda moment: flow(moment) > 0
    return None


KIND = Kind("belt_scale", {"mass": "t"}, _bind, _counted)
