"""What late data, repetition, order and kills do to accounts."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest

from accounting.intervals import BASE_US
from accounting.kernels.counter import Flag, counter_use
from cloud_ingest.settle.config import SettleConfig
from cloud_ingest.settle.rounds import FOLLOWER, PLANT_MODEL
from cloud_ingest.store import feed, intervals, readings
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.times import to_datetime
from tests.support.small_plant import (
    DAY_US,
    HOUR_US,
    MIDNIGHT_US,
    MINUTE_US,
    MODEL,
    POINTS,
    SITE,
    Sample,
    SmallPlant,
    counter,
    steady,
)

METERS = ("mill/energy", "fans/energy", "dryer/energy", "dryer/coal", "scale/mass", "pumps/volume", "incomer/energy")

_TABLES: dict[str, str] = {
    "interval_use": "SELECT p.name, i.start, i.use, i.covered_us, i.estimated, i.flags"
    " FROM interval_use i JOIN point p USING (point_id) ORDER BY p.name, i.start",
    "account": "SELECT process, carrier, period, start, ends, final, use, unit, coverage, estimated_share, product,"
    " output, output_unit, output_coverage, output_estimated_share, unit_use, co2_kg, co2_kg_per_output, factor,"
    " flags, notes, inputs"
    " FROM account WHERE current ORDER BY process, carrier, period, start",
}


def figures(conn: Connection) -> dict[str, list[Any]]:
    """Everything that settle says, without when and how often it said it."""
    return {name: conn.execute(text).fetchall() for name, text in _TABLES.items()}


def everything(conn: Connection) -> list[Any]:
    """All rows that settle keeps, down to ids and times."""
    rows: list[Any] = []
    for table in ("interval_use", "account", "settle_point", "settle_site"):
        rows += conn.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
    return rows


def test_a_late_reading_changes_exactly_the_accounts_it_touches(plant: SmallPlant) -> None:
    first, last = -HOUR_US, 30 * HOUR_US
    late_at = MIDNIGHT_US + 10 * HOUR_US + 30 * MINUTE_US
    plant.send_many([(name, steady(60.0, first, last)) for name in METERS if name != "dryer/energy"])
    around = [s for s in steady(60.0, first, last) if abs(s[0] - late_at) > 4 * MINUTE_US]
    plant.send("dryer/energy", around)
    plant.settle()
    before = {(*row[:4],): row for row in plant.rows()}
    assert all(row.revision == 1 for row in before.values())

    plant.send("dryer/energy", [(late_at, 1000.0 + 60 * 10.5 + 1.0)])
    plant.settle()

    after = plant.rows()
    revised = {(*row[:4],) for row in after if row.revision == 2}
    hour, day = MIDNIGHT_US + 10 * HOUR_US, MIDNIGHT_US
    assert revised == {
        (process, "electricity", period, start)
        for process in ("grinding", "drying", "balance:electricity")
        for period, start in (("hour", hour), ("day", day))
    }
    for row in after:
        key = (*row[:4],)
        if row.revision == 1:
            assert row._replace(current=True) == before[key]
            assert row.current == (key not in revised)
        else:
            assert row.current
            assert row.final
            # The use only moved within the hour; what is known of its course is what changed.
            assert row.use == before[key].use
            assert row.coverage == 1.0 > before[key].coverage
            assert row.estimated_share == 0.0


def test_what_comes_out_the_same_leaves_every_row_as_it_is(plant: SmallPlant) -> None:
    plant.send_many([(name, steady(60.0, -HOUR_US, 30 * HOUR_US)) for name in METERS])
    plant.settle()
    before = everything(plant.conn)
    points = [row[0] for row in plant.conn.execute("SELECT point_id FROM point").fetchall()]
    tenant_id = plant.conn.execute("SELECT tenant_id FROM tenant").fetchall()[0][0]
    for cause in ("live", PLANT_MODEL):
        feed.append(plant.conn, tenant_id, cause, points, MIDNIGHT_US, MIDNIGHT_US + DAY_US)
        plant.settle()
    plant.rounds = plant.new_rounds()
    plant.settle()
    assert everything(plant.conn) == before


def test_an_account_is_provisional_until_each_meter_was_heard_beyond_its_end(plant: SmallPlant) -> None:
    names = [name for name in METERS if name != "scale/mass"]
    plant.send_many([(name, steady(60.0, 0, HOUR_US + MINUTE_US)) for name in names])
    plant.send("scale/mass", steady(60.0, 0, HOUR_US - MINUTE_US))
    plant.settle()
    assert not plant.account("grinding").final
    assert plant.account("drying").final
    first = plant.account("grinding")
    plant.send("scale/mass", [(MIDNIGHT_US + HOUR_US, 1060.0)])
    plant.settle()
    assert plant.account("grinding").final
    assert (plant.account("grinding").revision, first.revision) == (1, 1)
    assert not plant.account("drying", period="day").final


def test_an_account_with_a_dead_meter_becomes_final_when_the_sites_clock_has_passed(
    connect: Callable[[], Connection],
) -> None:
    plant = SmallPlant(connect, config=SettleConfig(closing_delay_s=7200))
    plant.send_many([(name, steady(60.0, 0, 90 * MINUTE_US)) for name in METERS if name != "fans/energy"])
    plant.settle()
    assert not plant.account("grinding").final
    # Any point of the site moves its clock, also one that no account depends on.
    plant.send("mill/power", [(MIDNIGHT_US + 3 * HOUR_US - 1, 5.0)])
    plant.settle()
    assert not plant.account("grinding").final
    plant.send("mill/power", [(MIDNIGHT_US + 3 * HOUR_US, 5.0)])
    plant.settle()
    closed = plant.account("grinding")
    assert (closed.final, closed.revision, closed.use) == (True, 1, None)
    plant.send("fans/energy", steady(60.0, 0, 90 * MINUTE_US))
    plant.settle()
    assert plant.account("grinding").revision == 2
    assert plant.account("grinding").use == pytest.approx(180.0)
    (old,) = plant.rows(process="grinding", carrier="electricity", period="hour", start_us=MIDNIGHT_US, revision=1)
    assert old == closed._replace(current=False)


def _wild(seed: int) -> dict[str, list[Sample]]:
    """Readings with everything that happens: gaps, bad ones, doubtful times, spikes, zeros, resets, rollovers."""
    source = random.Random(seed)
    found: dict[str, list[Sample]] = {}
    for name in METERS:
        at_us, value = MIDNIGHT_US - 2 * HOUR_US, source.uniform(0, 900)
        samples: list[Sample] = []
        while at_us < MIDNIGHT_US + 30 * HOUR_US:
            at_us += source.choice((60, 60, 60, 61, 59, 240, 301)) * 1_000_000
            if source.random() < 0.01:
                at_us += source.randrange(1, 300) * MINUTE_US
            value += source.uniform(0, 2)
            if name == "mill/energy":
                value %= 1000
            shown: Sample = (at_us, round(value, 3))
            dice = source.random()
            if dice < 0.02:
                shown = (at_us, None)
            elif dice < 0.03:
                shown = (at_us, round(value, 3), 66)
            elif dice < 0.05:
                shown = (at_us, round(value, 3), 64)
            elif dice < 0.06:
                shown = (at_us, source.choice((0.0, 1e7)))
            elif dice < 0.062:
                value = 0.0
            samples.append(shown)
            if source.random() < 0.01:
                samples.append((at_us, round(value + source.choice((0.0, 1.0)), 3)))
        found[name] = samples
    return found


def _wild_points() -> list[Any]:
    rated = {"mill": 1000.0, "fans": None, "dryer": None, "incomer": None}
    return [
        counter(p.device, modulus=rated[p.device], max_rate_per_h=300.0, gap_limit_s=300)
        if p.tag == "energy" and p.device in ("mill", "fans")
        else p
        for p in POINTS
    ]


def _at_once(plant: SmallPlant) -> list[Any]:
    """Base intervals from all readings of a point in one call of the kernel."""
    found: list[Any] = []
    (site,) = plant.rounds._sites
    edges = np.arange(MIDNIGHT_US - 3 * HOUR_US, MIDNIGHT_US + 40 * HOUR_US, BASE_US)
    for name, point in sorted(site.counters.items()):
        stored = readings.fetch(plant.conn, point.value_type, [point.point_id], int(edges[0]), int(edges[-1]))
        series = stored[point.point_id]
        valid = (series.qualities < 128) & (series.qualities != 66)
        use = counter_use(
            series.times_us[valid],
            series.as_float()[valid],
            edges,
            gap_limit_us=point.gap_limit_us,
            modulus=point.modulus,
            max_rate_per_h=point.max_rate_per_h,
            step=point.step,
        )
        flags = use.flags & ~np.uint8(Flag.PARTIAL_START | Flag.PARTIAL_END)
        for place in np.flatnonzero(use.has_use | (flags != 0)).tolist():
            known = int(use.use[place]) if use.has_use[place] else None
            numbers = (known, int(use.covered_us[place]), int(use.estimated[place]), int(use.flags[place]))
            found.append((f"{SITE}/{name}", to_datetime(int(edges[place])), *numbers))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_arrival_gives_the_bits_of_a_full_computation(
    connect: Callable[[], Connection], seed: int
) -> None:
    source = random.Random(seed)
    plant = SmallPlant(connect, points=_wild_points(), config=SettleConfig(max_readings_per_round=1000))
    batches: list[tuple[str, list[Sample]]] = []
    for name, samples in _wild(seed).items():
        at = 0
        while at < len(samples):
            size = source.choice((1, 3, 20, 200))
            batches.append((name, samples[at : at + size]))
            at += size
    # Mostly in order, as live data is, with a good part late.
    batches.sort(key=lambda batch: batch[1][0][0] + source.choice((0, 0, 0, 6 * HOUR_US, 20 * HOUR_US)))
    for name, samples in batches:
        plant.send(name, samples)
        if source.random() < 0.15:
            plant.settle()
    plant.settle()
    incremental = figures(plant.conn)
    assert len(incremental["account"]) > 200
    assert incremental["interval_use"] == _at_once(plant)

    plant.conn.execute("TRUNCATE interval_use, account, settle_point, settle_site, plant_model")
    plant.rounds = plant.new_rounds()
    plant.rounds.run(plant.conn)
    plant.settle()
    clock = plant.conn.execute("SELECT clock FROM settle_site").fetchall()
    assert len(clock) == 1
    assert figures(plant.conn) == incremental


def test_a_kill_before_the_commit_leaves_nothing_and_loses_nothing(
    plant: SmallPlant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.send_many([(name, steady(60.0, -HOUR_US, 3 * HOUR_US)) for name in METERS])
    plant.settle()
    plant.send_many([(name, steady(60.0, 3 * HOUR_US + MINUTE_US, 6 * HOUR_US)) for name in METERS])
    before = everything(plant.conn)

    def die(conn: Connection, *_: Any) -> None:
        with pytest.raises(psycopg.errors.AdminShutdown):
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        raise ConnectionAbortedError

    victim = psycopg.connect(plant.conn.info.dsn, autocommit=True)
    with monkeypatch.context() as patched:
        patched.setattr(feed, "advance", die)
        with pytest.raises((ConnectionAbortedError, psycopg.OperationalError)):
            plant.rounds.run(victim)
    victim.close()
    assert everything(plant.conn) == before
    plant.settle()
    assert plant.account("grinding", start_us=5 * HOUR_US).use == pytest.approx(180.0)


def test_a_change_whose_transaction_is_still_open_is_waited_for_not_skipped(
    plant: SmallPlant, connect: Callable[[], Connection]
) -> None:
    slow = connect()
    (tenant_id,) = plant.conn.execute("SELECT tenant_id FROM tenant").fetchall()[0]
    slow.execute("BEGIN")
    feed.append(slow, tenant_id, "live", [1], MIDNIGHT_US, MIDNIGHT_US)
    plant.send_many([(name, steady(60.0, -HOUR_US, 3 * HOUR_US)) for name in METERS])
    plant.settle()
    assert plant.rows() == []
    (lag,) = [lag for lag in feed.lag(plant.conn) if lag.follower == FOLLOWER]
    assert (lag.rows, lag.held_rows) == (1, 1)
    slow.execute("COMMIT")
    plant.settle()
    assert plant.account("drying").use == pytest.approx(60.0)
    assert [lag.rows for lag in feed.lag(plant.conn) if lag.follower == FOLLOWER] == [0]


def test_a_changed_plant_model_is_a_new_version_and_restates_only_what_it_changes(plant: SmallPlant) -> None:
    plant.send_many([(name, steady(60.0, -HOUR_US, 30 * HOUR_US)) for name in METERS])
    plant.settle()
    before = {(*row[:4],): row for row in plant.rows()}
    changed = MODEL.replace(
        '[[process.meter]]\npoint = "fans/energy"\n', '[[process.meter]]\npoint = "fans/energy"\nshare = 0.5\n'
    ).replace('[[process]]\nname = "pumping"', '[[process]]\nname = "water"')
    plant.rounds = plant.new_rounds(changed)
    plant.settle()
    assert plant.account("grinding").use == pytest.approx(150.0)
    assert plant.account("grinding").revision == 2
    assert plant.account("water", "water").use == pytest.approx(60.0)
    for row in plant.rows():
        if row.process in ("drying", "balance:electricity"):
            assert row == before[*row[:4],]
        elif row.process == "pumping":
            assert row == before[*row[:4],]._replace(current=False)
    models = plant.conn.execute("SELECT current, count(*) FROM plant_model GROUP BY current ORDER BY 1").fetchall()
    assert models == [(False, 1), (True, 1)]

    plant.rounds = plant.new_rounds(MODEL)
    plant.settle()
    assert (plant.account("pumping", "water").revision, plant.account("grinding").revision) == (2, 3)


def test_new_parameters_of_a_point_restate_its_history(plant: SmallPlant) -> None:
    series = steady(60.0, -HOUR_US, 2 * HOUR_US, every_us=6 * MINUTE_US)
    plant.send("dryer/energy", series)
    plant.settle()
    assert plant.account("drying").coverage == 0.0
    plant.announce([p if p.device != "dryer" or p.tag == "coal" else counter("dryer", gap_limit_s=600) for p in POINTS])
    plant.rounds.refresh(plant.conn)
    plant.settle()
    assert plant.account("drying").coverage == 1.0


def test_readings_that_came_before_the_plant_model_are_accounted(connect: Callable[[], Connection]) -> None:
    plant = SmallPlant(connect)
    plant.conn.execute("DELETE FROM feed_follower")
    plant.conn.execute("TRUNCATE interval_use, account, settle_point, settle_site, plant_model")
    plant.send_many([(name, steady(60.0, -HOUR_US, 3 * HOUR_US)) for name in METERS])
    plant.conn.execute("TRUNCATE change_feed")
    plant.rounds = plant.new_rounds()
    plant.settle()
    assert plant.account("grinding").use == pytest.approx(180.0)


def test_a_birth_that_comes_with_the_data_is_seen(connect: Callable[[], Connection]) -> None:
    plant = SmallPlant(connect, born=False)
    plant.announce()
    plant.send("dryer/energy", steady(60.0, -HOUR_US, 3 * HOUR_US))
    plant.settle()
    assert plant.account("drying").use == pytest.approx(60.0)


def test_points_of_no_plant_model_cost_no_rows(plant: SmallPlant) -> None:
    plant.send("mill/power", steady(60.0, 0, HOUR_US))
    plant.settle()
    assert plant.rows() == []
    (known,) = intervals.catalogue(plant.conn, 1, SITE)[:1]
    assert known.name.startswith(f"{SITE}/")


def test_two_settlers_of_one_database_take_turns(plant: SmallPlant, connect: Callable[[], Connection]) -> None:
    others = [(connect(), plant.new_rounds()) for _ in range(2)]
    for hour in range(12):
        plant.send_many([(name, steady(60.0, hour * HOUR_US, (hour + 1) * HOUR_US)) for name in METERS])
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(rounds.run, conn) for conn, rounds in others]:
                done.result()
    plant.settle()
    assert [row.revision for row in plant.rows() if row.revision != 1] == []
    for row in plant.rows(process="grinding", carrier="electricity", period="hour", final=True):
        assert row.use == pytest.approx(180.0)
    assert sum(rounds.totals.changes for _, rounds in others) == 12
