"""Compressed-air meters: volume and flow at normal conditions; the pressure falls as the flow grows."""

from __future__ import annotations

from pydantic import Field as OptionField

from device_sims.kinds.base import Kind, Value, Wiring
from protocols.config import Model
from protocols.meters.schema import Field


class Options(Model):
    """Options of compressed-air meters.

    Attributes
    ----------
    temperature_degc
        Of the air [°C].
    pressure_kpa
        In the pipe without flow, above the atmosphere's [kPa].
    drop_kpa
        Fall of the pressure at the rated flow [kPa].
    rated_per_h
        Rated flow [Nm3/h].
    """

    temperature_degc: float = 32.0
    pressure_kpa: float = 680.0
    drop_kpa: float = OptionField(default=30.0, ge=0)
    rated_per_h: float = OptionField(default=6000.0, gt=0)


def _counted(field: Field) -> str | None:
    return "normal_volume" if field.quantity == "normal_volume" else None


def _bind(wiring: Wiring, field: Field) -> Value | None:
    options: Options = wiring.options
    flow = wiring.rate("normal_volume")
    match field.quantity:
        case "normal_volume":
            return wiring.total("normal_volume")
        case "normal_volume_flow":
            return flow
        case "temperature":
            return lambda _moment: options.temperature_degc
        case "pressure":
            return lambda moment: options.pressure_kpa - options.drop_kpa * flow(moment) / options.rated_per_h
    return None


KIND = Kind("compressed_air", {"normal_volume": "Nm3"}, _bind, _counted, Options)
