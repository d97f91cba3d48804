"""Electricity meters: energies from totals, all else from the power at the moment.

Voltage, current, power and power factor fit together: active power = √3·U·I·power factor, the phases add up,
and reactive energy is the integral of reactive power.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING
from zlib import crc32

from pydantic import Field as OptionField

from device_sims.kinds.base import Kind, Value, Wiring
from protocols.config import Model
from protocols.meters.schema import Field
from protocols.timebase import US

if TYPE_CHECKING:
    from device_sims.plant.plant import Moment

_PHASE = re.compile(r"_l([123])$")
_LINE = re.compile(r"_l[123]_l[123]$|^voltage$|_ll$|_ll_average$")
_PHASE_PARTS = {1: 1.010 / 3, 2: 0.985 / 3, 3: 1.005 / 3}
_WAVES_S = ((1801.0, 0.006), (97.0, 0.002))
"""Period [s] and height, relative, of the voltage's slow and fast wandering."""


class Options(Model):
    """Options of electricity meters.

    Attributes
    ----------
    voltage_v
        Nominal, between lines [V].
    power_factor
        Of the load.
    frequency_hz
        Nominal [Hz].
    """

    voltage_v: float = OptionField(default=400.0, gt=0)
    power_factor: float = OptionField(default=0.9, gt=0, le=1)
    frequency_hz: float = OptionField(default=50.0, gt=0)


def _wander(seed: str) -> Value:
    """About 0, with the waves above; a pure function of the plant time."""
    phase = crc32(seed.encode()) % 1000 / 1000
    (slow_s, slow), (fast_s, fast) = _WAVES_S
    turn = 2 * math.pi

    def wander(moment: Moment) -> float:
        at_s = moment.at_us / US
        return slow * math.sin(turn * (at_s / slow_s + phase)) + fast * math.sin(turn * (at_s / fast_s + phase))

    return wander


def _voltage(wiring: Wiring, phase: int) -> Value:
    """Between line and neutral [V]; phase 0: the mean."""
    nominal = wiring.options.voltage_v / math.sqrt(3)
    if phase:
        wander = _wander(f"{wiring.device}.l{phase}")
        return lambda moment: nominal * (1 + wander(moment))
    phases = [_voltage(wiring, n) for n in (1, 2, 3)]
    return lambda moment: sum(voltage(moment) for voltage in phases) / 3


def _power(wiring: Wiring, part: float) -> Value:
    """Active power, import positive [kW]."""
    bought, sold = wiring.rate("import"), wiring.rate("export")
    return lambda moment: (bought(moment) - sold(moment)) * part


def _direction(field: Field) -> str:
    return "export" if "export" in field.name else "import"


def _counted(field: Field) -> str | None:
    return _direction(field) if field.quantity == "active_energy" and not _PHASE.search(field.name) else None


def _bind(wiring: Wiring, field: Field) -> Value | None:
    options: Options = wiring.options
    found = _PHASE.search(field.name)
    line = _LINE.search(field.name) is not None
    phase = int(found[1]) if found and not line else 0
    part = _PHASE_PARTS[phase] if phase else 1.0
    tangent = math.tan(math.acos(options.power_factor))
    power = _power(wiring, part)
    match field.quantity:
        case "active_energy" | "reactive_energy":
            total = wiring.total(_direction(field))
            factor = part * (tangent if field.quantity == "reactive_energy" else 1.0)
            return lambda moment: total(moment) * factor
        case "active_power":
            return power
        case "reactive_power":
            return lambda moment: power(moment) * tangent
        case "apparent_power":
            return lambda moment: abs(power(moment)) / options.power_factor
        case "voltage":
            voltage = _voltage(wiring, phase)
            height = math.sqrt(3) if line else 1.0
            return lambda moment: voltage(moment) * height
        case "current":
            voltage = _voltage(wiring, phase)
            share = 1.0 if phase else 1 / 3
            per_volt = 1000 * share / options.power_factor
            return lambda moment: abs(power(moment)) * per_volt / voltage(moment)
        case "power_factor":
            return lambda _moment: options.power_factor
        case "frequency":
            wander = _wander("frequency")
            return lambda moment: options.frequency_hz * (1 + 0.1 * wander(moment))
    return None


KIND = Kind("electricity", {"import": "kWh", "export": "kWh"}, _bind, _counted, Options)
