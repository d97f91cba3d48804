"""The truth log says what the plant really used, and nothing else does."""

from __future__ import annotations

import asyncio
import socket
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from device_sims import truth
from device_sims.config import FleetConfig
from device_sims.draw import PERIOD_SPREAD, SPREAD, draw_specific_uses
from device_sims.errors import ServeError, TruthError
from device_sims.fleet import Fleet
from device_sims.plant.day import specific_use
from device_sims.truth import TruthLog
from protocols.timebase import US
from tests.support import fleets
from tests.support.fleets import HOUR

QUARTER = HOUR // 4
ORIGIN = fleets.us("2024-03-05T12:07:00+01:00")


def written(path: Path, config: FleetConfig | None = None, hours: float = 40, step: int = 7 * HOUR) -> Fleet:
    """A truth log of so many hours, refreshed step by step."""
    fleet = Fleet(config or fleets.small())
    log = TruthLog(path, fleet.plant, fleet.points, ORIGIN)
    log.publish()
    end = ORIGIN + round(hours * HOUR)
    for now in (*range(ORIGIN, end, step), end):
        log.write_until(now)
    log.close()
    return fleet


def test_every_series_has_its_true_total_at_every_quarter_that_passed(tmp_path: Path) -> None:
    fleet = written(tmp_path / "truth.jsonl")
    found = truth.load(tmp_path / "truth.jsonl")
    assert set(found) == set(fleet.plant.layout.series)
    for name, (edges, totals) in found.items():
        assert edges[0] == ORIGIN // QUARTER * QUARTER
        assert edges[-1] == (ORIGIN + 40 * HOUR) // QUARTER * QUARTER
        assert set(np.diff(edges)) == {QUARTER}
        column = fleet.plant.layout.series[name]
        assert totals.tolist() == [fleet.plant.at(int(edge)).total(column) for edge in edges]
    assert found.use("drive", ORIGIN // QUARTER * QUARTER, int(edges[-1])) > 0


def test_hours_and_days_say_which_specific_use_was_achieved(tmp_path: Path) -> None:
    written(tmp_path / "truth.jsonl", hours=60)
    found = truth.load(tmp_path / "truth.jsonl")
    days = [each for each in found.achieved if each.span == "day" and each.name == "power"]
    assert [(day.from_us, day.to_us) for day in days] == [
        (fleets.us("2024-03-06T00:00+01:00"), fleets.us("2024-03-07T00:00+01:00")),
        (fleets.us("2024-03-07T00:00+01:00"), fleets.us("2024-03-08T00:00+01:00")),
    ]
    assert days[0].specific_use == pytest.approx(58.5, rel=1e-9)
    hours = [each for each in found.achieved if each.span == "hour" and each.name == "power"]
    assert len(hours) == 60
    for one, other in pairwise(hours):
        assert one.to_us == other.from_us
    for hour in hours:
        used = sum(found.use(name, hour.from_us, hour.to_us) for name in ("drive", "fans"))
        assert hour.use == pytest.approx(used)
        assert hour.output == pytest.approx(found.use("clinker", hour.from_us, hour.to_us))
        assert hour.specific_use is None or hour.specific_use == pytest.approx(used / hour.output)
    assert len({hour.specific_use for hour in hours}) > 20
    standing = [hour for hour in hours if hour.output == 0]
    assert all(hour.specific_use is None and hour.use == pytest.approx(150.0) for hour in standing)


def test_how_often_it_is_refreshed_does_not_matter(tmp_path: Path) -> None:
    written(tmp_path / "one.jsonl", step=17 * 60 * 1_000_000)
    written(tmp_path / "other.jsonl", step=500 * HOUR)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "other.jsonl").read_bytes()


def test_a_log_that_is_being_written_reads_without_its_unfinished_line(tmp_path: Path) -> None:
    written(tmp_path / "truth.jsonl", hours=3)
    whole = (tmp_path / "truth.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (1, 20, len(lines[-1]) - 1):
        (tmp_path / "torn.jsonl").write_bytes(whole[:-cut])
        edges, _ = truth.load(tmp_path / "torn.jsonl")["drive"]
        assert len(edges) == len(truth.load(tmp_path / "truth.jsonl")["drive"][0]) - (b'"at"' in lines[-1])


def test_a_folder_may_be_given_instead_of_a_file(tmp_path: Path) -> None:
    written(tmp_path / "run" / "truth", hours=1)
    assert (tmp_path / "run" / "truth" / truth.FILE_NAME).is_file()
    assert "drive" in truth.load(tmp_path / "run" / "truth")


def test_counters_name_the_series_they_count(tmp_path: Path) -> None:
    written(tmp_path / "truth.jsonl", hours=1)
    points = truth.load(tmp_path / "truth.jsonl").header["points"]
    assert points["incomer/active_energy_import"] == "incomer"
    assert points["incomer/active_energy_export"] == "incomer_export"
    assert points["generator/active_energy_export"] == "generator"
    assert points["scale/mass"] == "clinker"
    assert points["water/volume"] == "water"
    assert points["air/normal_volume"] == "air"
    assert points["dcs/kiln.clinker_total"] == "clinker"
    assert "generator/active_energy_import" not in points
    assert "fans/reactive_energy_import" not in points
    assert "incomer/active_power" not in points


def test_what_is_not_in_the_log_is_an_error_that_says_what_is(tmp_path: Path) -> None:
    written(tmp_path / "truth.jsonl", hours=1)
    found = truth.load(tmp_path / "truth.jsonl")
    first = int(found["drive"][0][0])
    with pytest.raises(TruthError, match="series 'mill' is not in the truth log; known: clinker, drive"):
        found.use("mill", first, first + QUARTER)
    with pytest.raises(TruthError, match=f"edge {first + 1} is not in the truth log"):
        found.use("drive", first, first + 1)
    with pytest.raises(TruthError, match="edge"):
        found.use("drive", first, first + 1000 * HOUR)


@pytest.mark.parametrize("content", ["", "{}\n", "no\n", '{"series": []}\n{"at": 1}\n'])
def test_what_is_not_a_truth_log_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "truth.jsonl").write_text(content)
    with pytest.raises(TruthError, match=r"truth.jsonl is not a truth log"):
        truth.load(tmp_path / "truth.jsonl")


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fleet = Fleet(fleets.small())
    with pytest.raises(TruthError, match="can't be written"):
        TruthLog(tmp_path / "file" / "truth.jsonl", fleet.plant, {}, ORIGIN)


def test_drawn_specific_uses_hold_and_stand_in_the_log_alone(tmp_path: Path) -> None:
    plain = fleets.small()
    drawn = draw_specific_uses(plain)
    fleet = written(tmp_path / "truth.jsonl", drawn, hours=60)
    found = truth.load(tmp_path / "truth.jsonl")
    ordinal = 738_951  # 2024-03-06
    for before, after in zip(plain.uses, drawn.uses, strict=True):
        factors = [b.specific_use / a.specific_use for a, b in zip(before.periods, after.periods, strict=True)]
        assert all(
            (1 - SPREAD) * (1 - PERIOD_SPREAD) <= factor <= (1 + SPREAD) * (1 + PERIOD_SPREAD) for factor in factors
        )
        assert max(factors) / min(factors) <= (1 + PERIOD_SPREAD) / (1 - PERIOD_SPREAD)
        assert all(abs(factor - 1) > 1e-6 for factor in factors)
        logged = found.header["specific_uses"][after.name]
        assert [each["specific_use"] for each in logged] == [each.specific_use for each in after.periods]
        day = next(each for each in found.achieved if each.span == "day" and each.name == after.name)
        assert day.specific_use == pytest.approx(specific_use(after, ordinal), rel=1e-9)
    assert fleet.config.uses == drawn.uses


def test_a_seed_draws_the_same_specific_uses_and_another_draws_others() -> None:
    one = draw_specific_uses(fleets.small())
    assert one == draw_specific_uses(fleets.small())
    assert one.uses != draw_specific_uses(fleets.small(("seed = 7", "seed = 8"))).uses


async def test_a_running_fleet_refreshes_the_log_and_completes_it_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    fleet = Fleet(fleets.modbus_only(("speed = 600", "speed = 20000")), path)
    await fleet.start()
    try:
        async with asyncio.timeout(60):
            while len(truth.load(path)["drive"][0]) < 10:
                await asyncio.sleep(0.05)
    finally:
        await fleet.stop()
    stopped_us = fleet.clock.now_us()
    edges, _ = truth.load(path)["drive"]
    assert edges[0] == fleets.us("2024-03-05T12:00+01:00")
    assert edges[-1] > stopped_us - 20 * 24 * HOUR
    assert set(np.diff(edges)) == {QUARTER}


async def test_a_fleet_that_cannot_start_leaves_an_older_log_alone(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    written(path, hours=1)
    before = path.read_bytes()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = 'name = "hall"\nhost = "127.0.0.1"\nport = '
        fleet = Fleet(fleets.modbus_only((f"{place}0", f"{place}{taken.getsockname()[1]}")), path)
        with pytest.raises(ServeError):
            await fleet.start()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


async def test_a_fleet_that_began_long_ago_catches_up_in_bounded_memory(tmp_path: Path) -> None:
    anchor_us = time.time_ns() // 1000 - 60 * US
    config = fleets.modbus_only(
        ("seed = 7", 'seed = 7\nstart = "2024-01-01"'), ("speed = 600", f"speed = 30000\nanchor_us = {anchor_us}")
    )
    fleet = Fleet(config, tmp_path / "truth.jsonl")
    await fleet.start()
    try:
        assert len(fleet.plant._days) <= 5
        assert fleet.now().at_us > fleets.us("2024-03-05T12:00+01:00") + 20 * 24 * HOUR
        edges, totals = truth.load(tmp_path / "truth.jsonl")["clinker"]
    finally:
        await fleet.stop()
    assert edges[0] == fleets.us("2024-03-05T12:00+01:00")
    assert len(edges) > 20 * 96
    assert totals[0] > 100 * 24 * 50


async def test_a_restarted_fleet_writes_the_same_truth(tmp_path: Path) -> None:
    now_us = time.time_ns() // 1000
    anchored = fleets.modbus_only(("speed = 600", f"speed = 20000\nanchor_us = {now_us}"))
    logs = []
    for name in ("one", "other"):
        fleet = Fleet(anchored, tmp_path / name)
        await fleet.start()
        await asyncio.sleep(0.5)
        await fleet.stop()
        logs.append((tmp_path / name / truth.FILE_NAME).read_bytes())
    assert logs[1].startswith(logs[0])
    assert len(logs[0].splitlines()) > 10
