from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import intervals, model
from accounting.account import Account, account, balance, factor_for
from accounting.carriers import CARRIERS, carrier
from accounting.co2 import emission, kg_per_unit
from accounting.errors import CarrierError, FactorKindError, UnknownFactorError, UnknownNameError
from accounting.factors import Kind, fuel_factor, grid_factor, library
from accounting.model import Plant
from accounting.series import Series

ZONE = "Asia/Shanghai"
HOUR = 3_600_000_000
DAY_2022 = 1_655_136_000_000_000  # 2022-06-14 00:00 in Shanghai
PLANT = (Path(__file__).parents[2] / "deploy/plants/cement/plant.toml").read_text(encoding="utf-8")


def cement(policy: str = "exact", region: str | None = "河北") -> Plant:
    text = PLANT.replace('policy = "exact"', f'policy = "{policy}"')
    text = text.replace('region = "河北"', "" if region is None else f'region = "{region}"')
    return model.load(text, "plant.toml")


def base_of(day_us: int = DAY_2022, days: int = 1) -> intervals.Int64s:
    return intervals.edges("base", day_us, day_us + days * 24 * HOUR, ZONE)


def even(edges: intervals.Int64s, total: float) -> Series:
    """A use spread evenly over the intervals, known and covered throughout."""
    m = len(edges) - 1
    ends = np.rint(np.linspace(0, total * 1e6, m + 1)).astype(np.int64)
    lengths = edges[1:] - edges[:-1]
    zeros = np.zeros(m, np.int64)
    return Series(edges, ends[1:] - ends[:-1], np.ones(m, np.bool_), lengths, zeros, np.zeros(m, np.uint8))


def clinker_points(edges: intervals.Int64s) -> dict[str, Series]:
    shares = {"coal_mill_main": 0.2, "kiln_main": 0.3, "kiln_fans": 0.3, "cooler_fans": 0.15, "preheater_aux": 0.05}
    points = {f"{name}/active_energy_import": even(edges, 28.61 * 5000 * share) for name, share in shares.items()}
    points["dcs/coal_feed_kiln"] = even(edges, 300.0)
    points["dcs/coal_feed_calciner"] = even(edges, 426.0)
    points["dcs/clinker_total"] = even(edges, 5000.0)
    points["water_kiln/volume"] = even(edges, 620.0)
    points["air_kiln/normal_volume"] = even(edges, 157_500.0)
    return points


def daily(made: Account, day_us: int = DAY_2022) -> Account:
    return made.longer(intervals.edges("day", day_us, day_us + 1, ZONE), ZONE)


def test_the_clinker_step_of_a_day() -> None:
    edges = base_of()
    day = daily(account(cement(), "clinker", clinker_points(edges), edges))
    assert day.unit_use("electricity", "clinker").value[0] == pytest.approx(28.61, rel=1e-9)
    assert day.unit_use("bituminous coal", "clinker").value[0] == pytest.approx(0.1452, rel=1e-9)
    assert day.unit_use("electricity", "clinker").coverage.tolist() == [1.0]
    electricity_kg = 28.61 * 5000 * 0.7252
    coal_kg = 726.0 * 23.204 * 26.18 / 1000 * 0.93 * 44 / 12 * 1000
    assert day.co2["electricity"].values[0] == pytest.approx(electricity_kg, rel=1e-9)
    assert day.co2["bituminous coal"].values[0] == pytest.approx(coal_kg, rel=1e-9)
    per_tonne = day.co2_per_unit("clinker")
    assert per_tonne is not None
    assert per_tonne.value[0] == pytest.approx((electricity_kg + coal_kg) / 5000, rel=1e-9)


def test_water_and_air_emit_nothing_of_their_own() -> None:
    edges = base_of()
    made = account(cement(), "clinker", clinker_points(edges), edges)
    assert set(made.uses) == {"electricity", "bituminous coal", "water", "compressed_air"}
    assert set(made.co2) == {"electricity", "bituminous coal"}


def test_each_figure_names_the_factor_it_was_made_with() -> None:
    edges = base_of()
    day = daily(account(cement(), "clinker", clinker_points(edges), edges))
    grid, coal = day.factor("electricity", 0), day.factor("bituminous coal", 0)
    assert grid == grid_factor("河北", 2022)
    assert coal == fuel_factor("bituminous coal")
    assert grid is not None
    assert grid.version == library().version
    assert day.factor("water", 0) is None


def test_a_year_without_factor_has_uses_but_no_co2_and_says_why() -> None:
    live = DAY_2022 + 4 * 365 * 24 * HOUR
    edges = base_of(live)
    day = daily(account(cement(), "clinker", clinker_points(edges), edges), live)
    assert day.unit_use("electricity", "clinker").value[0] == pytest.approx(28.61)
    assert np.isnan(day.co2["electricity"].values[0])
    assert day.co2["electricity"].coverage[0] == 0.0
    assert day.co2["bituminous coal"].values[0] > 0
    whole, per_tonne = day.co2_total(), day.co2_per_unit("clinker")
    assert whole is not None
    assert per_tonne is not None
    assert np.isnan(whole.values[0])
    assert np.isnan(per_tonne.value[0])
    assert "河北 for 2026 under policy 'exact'; years there are: 2021, 2022" in day.missing_factors["electricity"][2026]
    assert day.factor("electricity", 0) is None


def test_latest_published_marks_what_is_provisional() -> None:
    live = DAY_2022 + 4 * 365 * 24 * HOUR
    edges = base_of(live)
    day = daily(account(cement("latest-published"), "clinker", clinker_points(edges), edges), live)
    factor = day.factor("electricity", 0)
    assert factor is not None
    assert (factor.provisional, factor.year) == (True, 2022)
    assert day.co2["electricity"].values[0] == pytest.approx(28.61 * 5000 * 0.7252, rel=1e-9)


def test_each_interval_takes_the_factor_of_its_local_year() -> None:
    new_year = 1_640_966_400_000_000  # 2022-01-01 00:00 in Shanghai
    edges = base_of(new_year - 24 * HOUR, days=2)
    made = account(cement(), "packing", {"packing/active_energy_import": even(edges, 2000.0)}, edges)
    days = made.longer(intervals.edges("day", int(edges[0]), int(edges[-1]), ZONE), ZONE)
    assert days.years.tolist() == [2021, 2022]
    np.testing.assert_allclose(days.co2["electricity"].values, [1000 * 0.7901, 1000 * 0.7252], rtol=1e-7)


def test_a_site_without_region_has_no_co2_of_electricity() -> None:
    edges = base_of()
    made = account(cement(region=None), "clinker", clinker_points(edges), edges)
    assert np.isnan(daily(made).co2["electricity"].values[0])
    assert made.missing_factors["electricity"][2022] == "site 'cement' names no region, so electricity has no factor"


def test_a_meter_without_readings_leaves_no_figure() -> None:
    edges = base_of()
    points = clinker_points(edges)
    del points["kiln_fans/active_energy_import"]
    day = daily(account(cement(), "clinker", points, edges))
    assert np.isnan(day.uses["electricity"].values[0])
    assert np.isnan(day.unit_use("electricity", "clinker").value[0])
    assert np.isnan(day.co2["electricity"].values[0])
    assert day.uses["electricity"].coverage[0] == 0.0
    assert day.unit_use("bituminous coal", "clinker").value[0] == pytest.approx(0.1452)


def test_a_process_that_uses_nothing_that_emits_has_no_co2_figure() -> None:
    plant = model.load(
        '[site]\nname="s"\ntimezone="UTC"\n[[process]]\nname="p"\nmeter=[{point="a/b",carrier="water"}]', "f"
    )
    edges = base_of()
    made = account(plant, "p", {}, edges)
    assert made.co2_total() is None
    assert made.co2_per_unit("x") is None
    with pytest.raises(UnknownNameError, match="process 'q' is unknown; known: p"):
        account(plant, "q", {}, edges)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1e6), min_size=7, max_size=7))
def test_the_total_is_the_same_from_every_path_of_the_drill_down(totals: list[float]) -> None:
    edges = base_of()
    names = [m.point for m in cement().meters_of("clinker") if m.carrier in ("electricity", "bituminous coal")]
    points = {name: even(edges, total) for name, total in zip(names, totals, strict=True)}
    step, mill, kiln = (account(cement(), name, points, edges) for name in ("clinker", "coal_mill", "kiln"))
    for level in intervals.LEVELS:
        longer = intervals.edges(level, DAY_2022, int(edges[-1]), ZONE)
        whole, one, other = (a.longer(longer, ZONE) for a in (step, mill, kiln))
        for kind in ("uses", "co2"):
            parts = getattr(one, kind)["electricity"].amount + getattr(other, kind)["electricity"].amount
            assert getattr(whole, kind)["electricity"].amount.tolist() == parts.tolist()
    hours = step.longer(intervals.edges("hour", DAY_2022, int(edges[-1]), ZONE), ZONE)
    for name in ("electricity", "bituminous coal"):
        assert hours.co2[name].amount.sum() == daily(step).co2[name].amount[0]


# Balance


def test_the_residual_is_shown_and_not_spread() -> None:
    edges = base_of()
    plant = cement()
    points = {point: even(edges, 1000.0) for point in plant.balance("electricity").branches}
    points |= {point: even(edges, 8100.0) for point in plant.balance("electricity").main}
    result = balance(plant, "electricity", points, edges)
    day = intervals.edges("day", DAY_2022, DAY_2022 + 1, ZONE)
    assert result.main.longer(day).values[0] == 16_200.0
    assert result.branches.longer(day).values[0] == 16_000.0
    assert result.residual.longer(day).values[0] == 200.0
    assert result.residual.amount.tolist() == (result.main.amount - result.branches.amount).tolist()


def test_a_balance_with_a_silent_branch_has_no_residual() -> None:
    edges = base_of()
    plant = cement()
    points = {point: even(edges, 100.0) for point in plant.points() if point != "packing/active_energy_import"}
    assert np.isnan(balance(plant, "electricity", points, edges).residual.values).all()


# Carriers and factors


def test_every_carrier_that_emits_has_a_factor_that_fits() -> None:
    for one in CARRIERS.values():
        if one.emission == "none":
            with pytest.raises(UnknownFactorError, match="takes no CO₂ factor"):
                factor_for(cement(), one.name, 2022)
        else:
            assert kg_per_unit(factor_for(cement(), one.name, 2022), one) > 0


def test_factors_are_turned_into_kilograms_per_canonical_unit() -> None:
    assert kg_per_unit(grid_factor("河北", 2022), carrier("electricity")) == 0.7252
    assert kg_per_unit(fuel_factor("bituminous coal"), carrier("bituminous coal")) == pytest.approx(2071.5, abs=0.05)
    assert kg_per_unit(fuel_factor("natural gas"), carrier("natural gas")) == pytest.approx(2.16219, abs=5e-6)
    assert kg_per_unit(library().heat(), carrier("heat")) == pytest.approx(110.0)


@pytest.mark.parametrize("kind", [Kind.GRID_LIFE_CYCLE, Kind.GRID_RESIDUAL, Kind.GRID_FOSSIL])
def test_no_other_grid_factor_passes_for_scope_2(kind: Kind) -> None:
    with pytest.raises(FactorKindError, match=f"of kind '{kind.value}'; allowed here: grid location"):
        kg_per_unit(grid_factor("China", 2023, kind=kind), carrier("electricity"))


def test_a_factor_of_another_substance_is_refused() -> None:
    with pytest.raises(FactorKindError, match="of kind 'fuel'; allowed here: grid location"):
        kg_per_unit(fuel_factor("diesel"), carrier("electricity"))
    with pytest.raises(FactorKindError, match="factor of 'diesel' in tCO2/t does not fit carrier 'gasoline' in t"):
        kg_per_unit(fuel_factor("diesel"), carrier("gasoline"))
    with pytest.raises(FactorKindError, match="carrier 'water' takes no CO₂ factor; got one of kind 'fuel'"):
        emission(even(base_of(), 1.0), carrier("water"), {2022: fuel_factor("diesel")}, np.full(96, 2022))


def test_an_unknown_carrier_lists_the_known_ones() -> None:
    with pytest.raises(CarrierError, match="carrier 'peat' is unknown; known: LNG, LPG"):
        carrier("peat")


def test_fuels_are_named_as_in_the_factor_table() -> None:
    fuels = {f.substance for f in library().select([Kind.FUEL])}
    assert {c.name for c in CARRIERS.values() if c.emission == "fuel"} <= fuels
