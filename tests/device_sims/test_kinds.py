"""What the kinds of devices show fits together physically."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sims.errors import FleetError
from device_sims.kinds import registry
from device_sims.kinds.base import Wiring, field_value
from device_sims.plant.plant import Moment
from protocols.meters.schema import Field
from tests.support import fleets
from tests.support.fleets import HOUR

PLANT = fleets.plant(fleets.small())
COLUMNS = {role: PLANT.layout.series[name] for role, name in (("import", "incomer"), ("export", "incomer_export"))}
MOMENTS = st.integers(PLANT.start_us, PLANT.start_us + 72 * HOUR).map(PLANT.at)


def show(moment: Moment, name: str, quantity: str, unit: str, kind: str = "gauge", **options: Any) -> float:
    found = registry.KINDS["electricity"]
    columns = options.pop("columns", COLUMNS)
    wired = Wiring("meter", columns, found.options.model_validate({"power_factor": 0.8, **options}))
    place = {"table": "input", "address": 0, "type": "float64"}
    field = Field.model_validate({"name": name, "quantity": quantity, "unit": unit, "kind": kind, **place})
    return field_value(found, wired, field, 0.0)(moment)


@given(moment=MOMENTS)
@settings(deadline=None, max_examples=50)
def test_power_is_voltage_times_current_times_power_factor(moment: Moment) -> None:
    power_w = 0.0
    for phase in ("l1", "l2", "l3"):
        voltage = show(moment, f"voltage_{phase}", "voltage", "V")
        current = show(moment, f"current_{phase}", "current", "A")
        power = show(moment, f"active_power_{phase}", "active_power", "W")
        assert abs(power) == pytest.approx(voltage * current * 0.8)
        assert voltage == pytest.approx(400 / math.sqrt(3), rel=0.02)
        power_w += power
    assert power_w == pytest.approx(show(moment, "active_power", "active_power", "W"))
    net = moment.rate(COLUMNS["import"]) - moment.rate(COLUMNS["export"])
    assert show(moment, "active_power", "active_power", "kW") == pytest.approx(net)


@given(moment=MOMENTS)
@settings(deadline=None, max_examples=50)
def test_apparent_power_is_the_root_of_the_squares(moment: Moment) -> None:
    active, reactive, apparent = (
        show(moment, f"{name}_power", f"{name}_power", unit)
        for name, unit in (("active", "kW"), ("reactive", "kvar"), ("apparent", "kVA"))
    )
    assert apparent == pytest.approx(math.hypot(active, reactive))
    assert show(moment, "power_factor", "power_factor", "1") == 0.8
    assert show(moment, "power_factor", "power_factor", "%") == pytest.approx(80)
    assert show(moment, "frequency", "frequency", "Hz") == pytest.approx(50, abs=0.1)


@given(moment=MOMENTS)
@settings(deadline=None, max_examples=50)
def test_reactive_energy_is_the_integral_of_reactive_power(moment: Moment) -> None:
    energy = show(moment, "active_energy_import", "active_energy", "kWh", "counter")
    reactive = show(moment, "reactive_energy_import", "reactive_energy", "kvarh", "counter")
    assert energy == pytest.approx(moment.total(COLUMNS["import"]))
    assert reactive == pytest.approx(energy * 0.75)
    assert show(moment, "active_energy_import", "active_energy", "MWh", "counter") == pytest.approx(energy / 1000)


def test_voltage_between_lines_is_root_three_times_that_to_neutral() -> None:
    moment = PLANT.at(PLANT.start_us)
    neutral = show(moment, "voltage_l1", "voltage", "V", voltage_v=6000)
    assert show(moment, "voltage_l1_l2", "voltage", "V", voltage_v=6000) == pytest.approx(6000, rel=0.02)
    assert neutral == pytest.approx(6000 / math.sqrt(3), rel=0.02)
    assert show(moment, "voltage", "voltage", "kV", voltage_v=6000) == pytest.approx(6, rel=0.02)


def test_a_generator_counts_export_and_shows_negative_power() -> None:
    column = PLANT.layout.series["generator"]
    moment = PLANT.at(PLANT.start_us + 9 * HOUR)
    columns = {"export": column}
    assert moment.rate(column) > 0
    assert show(moment, "active_energy_export", "active_energy", "kWh", "counter", columns=columns) == pytest.approx(
        moment.total(column)
    )
    assert show(moment, "active_energy_import", "active_energy", "kWh", "counter", columns=columns) == 0
    assert show(moment, "active_power", "active_power", "kW", columns=columns) == pytest.approx(-moment.rate(column))


def test_voltage_wanders_and_is_the_same_at_the_same_time() -> None:
    one, other = PLANT.at(PLANT.start_us), PLANT.at(PLANT.start_us + HOUR // 5)
    assert show(one, "voltage_l1", "voltage", "V") != show(other, "voltage_l1", "voltage", "V")
    assert show(one, "voltage_l1", "voltage", "V") == show(PLANT.at(PLANT.start_us), "voltage_l1", "voltage", "V")


def test_air_pressure_falls_as_the_flow_grows() -> None:
    kind = registry.KINDS["compressed_air"]
    wired = Wiring("air", {"normal_volume": PLANT.layout.series["air"]}, kind.options())
    place = {"table": "holding", "address": 0, "type": "float32", "kind": "gauge"}
    field = Field.model_validate({"name": "pressure", "quantity": "pressure", "unit": "bar", **place})
    pressure = field_value(kind, wired, field, 0.0)
    moments = [PLANT.at(PLANT.start_us + n * HOUR // 3) for n in range(72)]
    by_flow = sorted(moments, key=lambda moment: moment.rate(PLANT.layout.series["air"]))
    assert pressure(by_flow[0]) > pressure(by_flow[-1]) > 5
    assert 6.0 < pressure(by_flow[0]) < 6.8


def test_water_and_scales_show_flow_and_state() -> None:
    place = {"table": "holding", "address": 0, "type": "float32", "kind": "gauge"}
    moment = PLANT.at(PLANT.start_us + 9 * HOUR)
    for kind_name, role, series, quantity, unit, factor in (
        ("water", "volume", "water", "volume_flow", "L/s", 1 / 3.6),
        ("belt_scale", "mass", "clinker", "mass_flow", "kg/s", 1 / 3.6),
    ):
        kind = registry.KINDS[kind_name]
        column = PLANT.layout.series[series]
        field = Field.model_validate({"name": "flow", "quantity": quantity, "unit": unit, **place})
        flow = field_value(kind, Wiring("meter", {role: column}, kind.options()), field, 0.0)(moment)
        assert flow == pytest.approx(moment.rate(column) * factor)
    kind = registry.KINDS["water"]
    for name, unit, expected in (("temperature", "degC", 18.0), ("temperature", "K", 291.15), ("pressure", "bar", 4.2)):
        field = Field.model_validate({"name": name, "quantity": name, "unit": unit, **place})
        assert field_value(kind, Wiring("meter", {}, kind.options()), field, 0.0)(moment) == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(registry.KINDS))
def test_a_kind_refuses_a_quantity_it_cannot_show(name: str) -> None:
    kind = registry.KINDS[name]
    place = {"table": "holding", "address": 0, "type": "float32", "kind": "state"}
    field = Field.model_validate({"name": "odd", "quantity": "text", "unit": "1", **place})
    with pytest.raises(FleetError, match=f"device 'meter'.field 'odd': kind '{name}' can't show quantity 'text'"):
        field_value(kind, Wiring("meter", {}, kind.options()), field, 0.0)


def test_the_registry_finds_every_file_of_the_package() -> None:
    assert sorted(registry.KINDS) == ["belt_scale", "compressed_air", "electricity", "water"]
    assert sorted(registry.SERVER_KINDS) == ["dcs"]
