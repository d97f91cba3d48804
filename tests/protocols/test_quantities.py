from __future__ import annotations

from typing import get_args

import pytest

from protocols import quantities
from protocols.errors import QuantityError
from protocols.quantities import QUANTITIES, Kind, Medium, Quantity


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=lambda q: q.name)
def test_every_quantity_is_consistent(quantity: Quantity) -> None:
    assert QUANTITIES[quantity.name] is quantity
    symbols = [unit.symbol for unit in quantity.units]
    assert len(symbols) == len(set(symbols)) > 0
    assert (quantity.units[0].factor, quantity.units[0].offset) == (1.0, 0.0)
    assert quantity.canonical_unit == symbols[0]
    assert all(unit.factor > 0 for unit in quantity.units)
    assert quantity.kinds
    assert set(quantity.kinds) <= set(get_args(Kind))
    assert set(quantity.media) <= set(get_args(Medium))
    for symbol in symbols:
        for medium in quantity.media or get_args(Medium):
            quantities.check(quantity.name, symbol, quantity.kinds[0], medium)


@pytest.mark.parametrize(
    ("quantity", "symbol", "value", "canonical"),
    [
        ("active_energy", "MWh", 1.5, 1500.0),
        ("active_energy", "Wh", 1500.0, 1.5),
        ("active_energy", "GJ", 3.6, 1000.0),
        ("thermal_energy", "kWh", 1000.0, 3.6),
        ("thermal_energy", "MWh", 1.0, 3.6),
        ("active_power", "W", 1500.0, 1.5),
        ("power_factor", "%", 92.0, 0.92),
        ("volume", "L", 1500.0, 1.5),
        ("volume_flow", "L/s", 1.0, 3.6),
        ("volume_flow", "L/min", 1000.0, 60.0),
        ("volume_flow", "m3/min", 2.0, 120.0),
        ("normal_volume_flow", "Nm3/min", 6.0, 360.0),
        ("mass", "kg", 1500.0, 1.5),
        ("mass_flow", "kg/s", 10.0, 36.0),
        ("mass_flow", "kg/h", 1500.0, 1.5),
        ("temperature", "K", 273.15, 0.0),
        ("pressure", "bar", 7.0, 700.0),
        ("pressure", "MPa", 0.7, 700.0),
        ("pressure", "Pa", 101_325.0, 101.325),
        ("running_time", "min", 90.0, 1.5),
        ("running_time", "s", 5400.0, 1.5),
    ],
)
def test_units_convert_to_the_canonical_unit(quantity: str, symbol: str, value: float, canonical: float) -> None:
    unit = quantities.unit(quantity, symbol)
    assert value * unit.factor + unit.offset == pytest.approx(canonical, abs=1e-12)


def test_a_heat_meter_counts_the_volume_of_what_carries_the_heat() -> None:
    quantities.check("volume", "m3", "counter", "heat")
    quantities.check("volume_flow", "m3/h", "gauge", "heat")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("energy", "kWh", "counter", "electricity"), "'energy' is unknown; known: .*active_energy"),
        (("active_energy", "kW", "counter", "electricity"), "unit 'kW' does not fit .* allowed: kWh, Wh, MWh, GJ"),
        (("active_energy", "kWh", "gauge", "electricity"), "kind 'gauge' does not fit .* allowed: counter"),
        (("active_energy", "kWh", "counter", "water"), "medium 'water' does not fit .* allowed: electricity"),
        (("temperature", "C", "gauge", "none"), "unit 'C' does not fit .* allowed: degC, K"),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_allowed(arguments: tuple[str, str, str, str], words: str) -> None:
    with pytest.raises(QuantityError, match=words):
        quantities.check(*arguments)
