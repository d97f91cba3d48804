"""What the simulated plant promises: totals, balances, specific uses, stops, days."""

from __future__ import annotations

import math
from datetime import date
from functools import cache
from itertools import pairwise
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sims.errors import FleetError, PlantTimeError
from device_sims.plant.calendar import ordinal_at, span
from device_sims.plant.day import specific_use
from device_sims.plant.plant import Moment, Plant
from protocols.timebase import US
from tests.support import fleets
from tests.support.fleets import HOUR

DAYS = 4


@cache
def small_plant() -> Plant:
    return fleets.plant(fleets.small())


@cache
def cement_plant() -> Plant:
    return fleets.plant(fleets.cement(), "2022-06-13")


def times(plant: Plant) -> st.SearchStrategy[int]:
    return st.integers(plant.start_us, plant.start_us + DAYS * 24 * HOUR)


def brute_integral(plant: Plant, column: int, from_us: int, to_us: int) -> float:
    """Sum of rate times length over the pieces that the grid cuts, each rate read in the piece's middle."""
    grid_us = plant.config.plant.grid_s * US
    first = from_us // grid_us + 1
    edges = [from_us, *range(first * grid_us, to_us, grid_us), to_us]
    return math.fsum(plant.at((a + b) // 2).rate(column) * (b - a) / HOUR for a, b in pairwise(edges) if b > a)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_totals_are_integrals_of_rates(data: st.DataObject) -> None:
    plant = data.draw(st.sampled_from([small_plant(), cement_plant()]))
    one = data.draw(times(plant))
    other = data.draw(st.integers(one, one + 7 * HOUR))
    column = data.draw(st.integers(0, len(plant.layout.series) - 1))
    used = plant.at(other).total(column) - plant.at(one).total(column)
    assert used == pytest.approx(brute_integral(plant, column, one, other), rel=1e-9, abs=1e-6)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_bought_is_branches_and_loss_less_generation(data: st.DataObject) -> None:
    plant = data.draw(st.sampled_from([small_plant(), cement_plant()]))
    main = plant.config.main
    assert main is not None
    moment = plant.at(data.draw(times(plant)))
    column = plant.layout.series
    for read in (moment.rate, moment.total):
        load = sum(read(column[name]) for name in main.branches)
        generated = sum(read(column[name]) for name in main.generation)
        net = read(column[main.name]) - read(column[main.export_name])
        assert net == pytest.approx(load + read(column[main.loss_name]) - generated, rel=1e-9, abs=1e-6)
    load = sum(moment.rate(column[name]) for name in main.branches)
    loss = load * main.loss + main.loss_at_rated * load**2 / main.rated
    assert moment.rate(column[main.loss_name]) == pytest.approx(loss)


def test_generation_beyond_the_load_is_exported_and_nothing_is_bought() -> None:
    plant = fleets.plant(fleets.small(("specific_use = 55.0", "specific_use = 90.0")))
    column = plant.layout.series
    moment = next(m for m in _moments(plant, 24) if m.running(0) and m.rate(column["generator"]) > 5000)
    assert moment.rate(column["incomer"]) == 0
    assert moment.rate(column["incomer_export"]) > 0
    assert plant.at(plant.start_us + 24 * HOUR).total(column["incomer_export"]) > 0


def test_a_standing_step_draws_its_idle_power() -> None:
    plant = small_plant()
    column = plant.layout.series
    standing = [moment for moment in _moments(plant, 72) if not moment.running(0)]
    assert len(standing) > 20
    for moment in standing:
        assert moment.rate(column["clinker"]) == 0
        assert moment.rate(column["generator"]) == 0
        assert moment.rate(column["drive"]) == 120.0
        assert moment.rate(column["fans"]) == 30.0


def test_a_running_machine_makes_and_draws_more_than_idle() -> None:
    plant = small_plant()
    column = plant.layout.series
    running = [moment for moment in _moments(plant, 72) if moment.running(0)]
    assert len(running) > 200
    for moment in running:
        assert moment.rate(column["clinker"]) > 0
        assert moment.rate(column["drive"]) > 120.0


def test_a_meter_follows_the_machine_it_is_told_to() -> None:
    plant = cement_plant()
    column, machine = plant.layout.series, plant.layout.machines
    seen = set()
    for moment in _moments(plant, 48):
        running = moment.running(machine["coal_mill"])
        seen.add(running)
        assert (moment.rate(column["coal_mill_main"]) == 60.0) == (not running)
        assert moment.running(machine["kiln"])
    assert seen == {True, False}


@pytest.mark.parametrize("which", ["small", "cement"])
def test_the_specific_use_of_a_day_is_exactly_the_configured_one(which: str) -> None:
    plant = small_plant() if which == "small" else cement_plant()
    column = plant.layout.series
    first = plant.start_us
    for _ in range(DAYS):
        ordinal = _ordinal(plant, first)
        day = span(plant.config.plant.timezone, ordinal)
        before, after = plant.at(day.start_us).totals(), plant.at(day.end_us).totals()
        for use in plant.config.uses:
            used = sum(after[column[meter.name]] - before[column[meter.name]] for meter in use.meters)
            made = sum(after[column[name]] - before[column[name]] for name in use.of)
            assert made > 0
            assert used / made == pytest.approx(specific_use(use, ordinal), rel=1e-9), use.name
        first = day.end_us


def test_the_cement_plant_has_the_published_specific_uses() -> None:
    uses = {use.name: use for use in cement_plant().config.uses}
    for name, before, after in (
        ("raw_meal_electricity", 14.42, 14.2),
        ("clinker_electricity", 28.61, 28.18),
        ("cement_electricity", 32.44, 32.0),
    ):
        assert specific_use(uses[name], date(2022, 6, 14).toordinal()) == before
        assert specific_use(uses[name], date(2022, 6, 15).toordinal()) == after


def test_the_hours_of_a_day_differ_in_specific_use_and_shares() -> None:
    plant = cement_plant()
    column = plant.layout.series
    edges = [plant.at(plant.start_us + hour * HOUR).totals() for hour in range(9)]
    uses, shares = set(), set()
    for before, after in pairwise(edges):
        step = after - before
        total = sum(step[column[name]] for name in ("kiln_main", "kiln_fans", "cooler_fans"))
        uses.add(round(total / step[column["clinker"]], 4))
        shares.add(round(step[column["kiln_fans"]] / total, 4))
    assert len(uses) > 4
    assert len(shares) > 4


@pytest.mark.parametrize(("first", "hours"), [("2024-03-31", 23), ("2024-10-27", 25), ("2024-07-01", 24)])
def test_a_plant_day_is_a_local_day_however_long(first: str, hours: int) -> None:
    plant = fleets.plant(fleets.small(), first)
    day = span("Europe/Berlin", date.fromisoformat(first).toordinal())
    assert day.end_us - day.start_us == hours * HOUR
    column = plant.layout.series
    after = plant.at(day.end_us).totals()
    used = after[column["drive"]] + after[column["fans"]]
    assert used / after[column["clinker"]] == pytest.approx(58.5, rel=1e-9)


def test_totals_do_not_step_at_midnight() -> None:
    plant = small_plant()
    for n in range(1, DAYS):
        midnight = plant.start_us + n * 24 * HOUR
        before, after = plant.at(midnight - 1), plant.at(midnight)
        for column in range(len(plant.layout.series)):
            step = after.total(column) - before.total(column)
            assert 0 <= step <= before.rate(column) / HOUR + 1e-9


def test_machines_run_on_and_stand_on_over_midnight() -> None:
    always = fleets.plant(fleets.cement(), "2022-06-13")
    kiln = always.layout.machines["kiln"]
    clinker = always.layout.series["clinker"]
    stands = fleets.plant(fleets.small(("jitter_minutes = 30", "jitter_minutes = 0")))
    for n in range(1, DAYS):
        midnight = always.start_us + n * 24 * HOUR
        before, after = always.at(midnight - 1), always.at(midnight)
        assert before.running(kiln)
        assert after.running(kiln)
        assert after.rate(clinker) == pytest.approx(before.rate(clinker), rel=0.03)
        midnight = stands.start_us + n * 24 * HOUR
        assert not stands.at(midnight - 1).running(0)
        assert not stands.at(midnight).running(0)


def test_load_runs_up_and_down_without_a_jump() -> None:
    plant = small_plant()
    column = plant.layout.series["drive"]
    grid_us = 30 * US
    rates = np.array([plant.at(plant.start_us + n * grid_us).rate(column) for n in range(2 * 2880)])
    assert rates.min() == 120.0
    assert np.abs(np.diff(rates)).max() < 0.06 * rates.max()


def test_the_same_seed_gives_the_same_plant_in_whatever_order_it_is_asked() -> None:
    forward, backward = fleets.plant(fleets.small()), fleets.plant(fleets.small())
    asked = [forward.start_us + hour * HOUR + 1234567 for hour in range(0, 72, 5)]
    one = [forward.at(at).totals().tolist() for at in asked]
    other = [backward.at(at).totals().tolist() for at in reversed(asked)]
    assert one == other[::-1]


def test_another_seed_gives_another_plant() -> None:
    one, other = fleets.plant(fleets.small()), fleets.plant(fleets.small(("seed = 7", "seed = 8")))
    at = one.start_us + 20 * HOUR
    assert one.at(at).totals().tolist() != other.at(at).totals().tolist()


def test_a_day_without_output_draws_idle_power_only() -> None:
    plant = fleets.plant(
        fleets.small(
            ('from = "23:10"\nminutes = [100, 130]\njitter_minutes = 30', 'from = "00:00"\nminutes = [1200, 1200]'),
            ("minutes = [10, 200]\nprobability = 0.5", 'from = "19:00"\nminutes = [400, 400]'),
        ),
        "2024-03-04",
    )
    after = plant.at(plant.start_us + 24 * HOUR).totals()
    column = plant.layout.series
    assert after[column["clinker"]] == 0
    assert after[column["drive"]] == pytest.approx(24 * 120.0)


def test_on_a_day_with_little_output_idle_power_shrinks_and_the_specific_use_holds() -> None:
    plant = fleets.plant(
        fleets.small(
            ('from = "23:10"\nminutes = [100, 130]\njitter_minutes = 30', 'from = "00:00"\nminutes = [1200, 1200]'),
            ("minutes = [10, 200]\nprobability = 0.5", 'from = "20:30"\nminutes = [210, 210]'),
        )
    )
    after = plant.at(plant.start_us + 24 * HOUR).totals()
    column = plant.layout.series
    assert after[column["clinker"]] > 0
    used = after[column["drive"]] + after[column["fans"]]
    assert used / after[column["clinker"]] == pytest.approx(60.0, rel=1e-9)
    assert plant.at(plant.start_us + HOUR).rate(column["drive"]) < 120.0


def test_output_goes_to_the_meters_shares_when_what_they_follow_stands() -> None:
    other = '[[step]]\nname = "other"\n[[step.machine]]\nname = "idler"\nrate_per_h = 1.0\n'
    other += '[[step.machine.stop]]\nfrom = "00:00"\nminutes = [1200, 1200]\n'
    other += '[[step.machine.stop]]\nfrom = "19:00"\nminutes = [400, 400]\n\n[[use]]\nname = "heat"'
    changes = (
        ('[[use]]\nname = "heat"', other),
        ('name = "generator"\n\n[[use]]', 'name = "generator"\nfollows = ["idler"]\n\n[[use]]'),
    )
    plant = fleets.plant(fleets.small(*changes), "2024-03-04")
    after = plant.at(plant.start_us + 24 * HOUR).totals()
    column = plant.layout.series
    assert after[column["other"]] == 0
    assert after[column["generator"]] == pytest.approx(55.0 * after[column["clinker"]])


def test_before_its_start_the_plant_stands_still() -> None:
    plant = small_plant()
    assert plant.at(plant.start_us - 5 * HOUR).totals().tolist() == [0.0] * len(plant.layout.series)


def test_an_open_ended_run_keeps_few_days_in_memory() -> None:
    plant = fleets.plant(fleets.small())
    for hour in range(0, 24 * 30, 8):
        now = plant.start_us + hour * HOUR
        plant.prepare(now + 24 * HOUR)
        plant.at(now)
        plant.release(now - 24 * HOUR)
        assert len(plant._days) <= 5
    with pytest.raises(PlantTimeError, match="2024-03-06 was released; allowed: from 2024-04-0"):
        plant.at(plant.start_us + 30 * HOUR)


def test_a_prepared_day_is_served_while_another_is_computed() -> None:
    plant = fleets.plant(fleets.small())
    plant.prepare(plant.start_us + 30 * HOUR)
    found: list[float] = []
    with plant._lock:  # as long as a day is being computed
        asking = Thread(target=lambda: found.append(plant.at(plant.start_us + 30 * HOUR).total(0)))
        asking.start()
        asking.join(timeout=30)
    asking.join()
    assert len(found) == 1


def test_a_release_never_takes_what_is_still_wanted() -> None:
    plant = fleets.plant(fleets.small())
    plant.prepare(plant.start_us + 80 * HOUR)
    plant.release(plant.start_us + 30 * HOUR)
    assert plant.at(plant.start_us + 30 * HOUR).total(0) > 0
    with pytest.raises(PlantTimeError):
        plant.at(plant.start_us + 12 * HOUR)


def test_a_timezone_before_whole_quarters_is_refused() -> None:
    with pytest.raises(FleetError, match="does not begin on a quarter of an hour"):
        span("Asia/Shanghai", date(1890, 1, 1).toordinal())


def _moments(plant: Plant, hours: int) -> list[Moment]:
    return [plant.at(plant.start_us + n * 600 * US + 5 * US) for n in range(hours * 6)]


def _ordinal(plant: Plant, at_us: int) -> int:
    return ordinal_at(plant.config.plant.timezone, at_us)
