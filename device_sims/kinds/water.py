"""Water meters: volume and flow, at a steady temperature and pressure."""

from __future__ import annotations

from device_sims.kinds.base import Kind, Value, Wiring
from protocols.config import Model
from protocols.meters.schema import Field


class Options(Model):
    """Options of water meters.

    Attributes
    ----------
    temperature_degc
        Of the water [°C].
    pressure_kpa
        In the pipe [kPa].
    """

    temperature_degc: float = 18.0
    pressure_kpa: float = 420.0


def _counted(field: Field) -> str | None:
    return "volume" if field.quantity == "volume" else None


def _bind(wiring: Wiring, field: Field) -> Value | None:
    options: Options = wiring.options
    match field.quantity:
        case "volume":
            return wiring.total("volume")
        case "volume_flow":
            return wiring.rate("volume")
        case "temperature":
            return lambda _moment: options.temperature_degc
        case "pressure":
            return lambda _moment: options.pressure_kpa
    return None


KIND = Kind("water", {"volume": "m3"}, _bind, _counted, Options)
