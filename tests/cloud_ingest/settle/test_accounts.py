"""What accounts say: sums, ratios, CO₂, gaps, time zones."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest

from cloud_ingest.settle.config import SettleConfig
from cloud_ingest.store.pool import Connection
from tests.support.small_plant import (
    DAY_US,
    HOUR_US,
    MIDNIGHT_US,
    MINUTE_US,
    MODEL,
    POINTS,
    SITE,
    SmallPlant,
    counter,
    steady,
)

HEBEI_2022 = 0.7252
COAL_KG_PER_T = 2071.5


def _feed(plant: SmallPlant, first_us: int = -HOUR_US, last_us: int = 26 * HOUR_US) -> None:
    plant.send_many(
        [
            ("mill/energy", steady(120.0, first_us, last_us)),
            ("fans/energy", steady(30.5, first_us, last_us)),
            ("dryer/energy", steady(49.5, first_us, last_us)),
            ("dryer/coal", steady(1.5, first_us, last_us)),
            ("scale/mass", steady(10.0, first_us, last_us)),
            ("pumps/volume", steady(7.0, first_us, last_us)),
            ("incomer/energy", steady(210.0, first_us, last_us)),
        ]
    )


def test_a_step_is_charged_with_its_meters_and_those_below_it(plant: SmallPlant) -> None:
    _feed(plant)
    plant.settle()
    hour = plant.account("grinding")
    assert hour.use == pytest.approx(200.0, abs=1e-5)
    assert hour.unit == "kWh"
    assert hour.output == pytest.approx(10.0, abs=1e-5)
    assert hour.unit_use == pytest.approx(20.0, abs=1e-5)
    assert (hour.coverage, hour.estimated_share, hour.final, hour.flags, hour.notes) == (1.0, 0.0, True, [], [])
    assert plant.account("drying").use == pytest.approx(49.5, abs=1e-5)
    assert plant.account("drying").unit_use is None
    water = plant.account("pumping", "water")
    assert (water.unit, water.co2_kg, water.factor) == ("m3", None, None)


def test_co2_follows_from_the_regions_factor_of_the_year_and_the_fuels(plant: SmallPlant) -> None:
    _feed(plant)
    plant.settle()
    power = plant.account("grinding", period="day")
    assert power.co2_kg == pytest.approx(24 * 200.0 * HEBEI_2022, rel=1e-8)
    assert power.factor is not None
    assert {k: power.factor[k] for k in ("value", "unit", "name", "year", "provisional")} == {
        "value": HEBEI_2022,
        "unit": "kgCO2/kWh",
        "name": "河北",
        "year": 2022,
        "provisional": False,
    }
    coal = plant.account("grinding", "bituminous coal", period="day")
    assert coal.co2_kg == pytest.approx(24 * 1.5 * COAL_KG_PER_T, rel=1e-4)


def test_hours_add_up_to_the_day_and_children_to_the_parent_to_the_last_digit(plant: SmallPlant) -> None:
    values = [(MIDNIGHT_US + n * 7 * MINUTE_US, 17.0 + n * 1.2345671) for n in range(-9, 220)]
    plant.send_many([("mill/energy", values), ("fans/energy", values[::2]), ("dryer/energy", values[::3])])
    plant.settle()
    sums = plant.conn.execute(
        "SELECT process, sum(use) FILTER (WHERE period = 'hour'), sum(use) FILTER (WHERE period = 'day'),"
        " sum(co2_kg) FILTER (WHERE period = 'hour'), sum(co2_kg) FILTER (WHERE period = 'day')"
        " FROM account WHERE carrier = 'electricity' AND process IN ('grinding', 'drying') GROUP BY process"
    ).fetchall()
    assert len(sums) == 2
    for _, hours, days, co2_hours, co2_days in sums:
        assert hours == days > 0
        assert co2_hours == co2_days > 0
    for row in plant.rows(process="grinding", carrier="electricity"):
        whole = sum(Fraction(amount or 0, 10**6) for _, _, amount, *_ in row.inputs["use"])
        if row.use is not None:
            assert float(whole) == row.use


def test_the_residual_of_a_balance_is_an_account_of_its_own(plant: SmallPlant) -> None:
    _feed(plant)
    plant.settle()
    residual = plant.account("balance:electricity")
    assert residual.use == pytest.approx(10.0, abs=1e-5)
    assert residual.co2_kg == pytest.approx(10.0 * HEBEI_2022, abs=1e-5)
    assert [share for _, share, *_ in residual.inputs["use"]] == [1, -1, -1, -1]


def test_a_silent_meter_leaves_null_and_no_coverage_never_zero(plant: SmallPlant) -> None:
    _feed(plant, last_us=2 * HOUR_US)
    # From here on the fans' meter is dead and nothing is known of it; the others go on.
    plant.send("fans/energy", [(MIDNIGHT_US + at, None) for at in range(2 * HOUR_US + 1, 4 * HOUR_US, MINUTE_US)])
    later = 2 * HOUR_US + MINUTE_US
    plant.send_many([(name, steady(60.0, later, 5 * HOUR_US, 2000.0)) for name in ("mill/energy", "dryer/energy")])
    plant.settle()
    hour = plant.account("grinding", start_us=3 * HOUR_US)
    assert (hour.use, hour.unit_use, hour.co2_kg, hour.coverage, hour.estimated_share) == (None, None, None, 0.0, None)
    assert "nothing is known of fans/energy" in hour.notes
    assert plant.account("drying", start_us=3 * HOUR_US).use == pytest.approx(60.0)
    assert plant.account("pumping", "water", start_us=3 * HOUR_US).use is None
    day = plant.account("grinding", period="day")
    assert day.coverage < 0.1


def test_a_gap_is_estimated_by_time_and_says_so(plant: SmallPlant) -> None:
    series = steady(60.0, -HOUR_US, 3 * HOUR_US)
    hole = [
        sample for sample in series if not HOUR_US + 10 * MINUTE_US < sample[0] - MIDNIGHT_US < HOUR_US + 40 * MINUTE_US
    ]
    plant.send("dryer/energy", hole)
    plant.settle()
    hour = plant.account("drying", start_us=HOUR_US)
    assert hour.use == pytest.approx(60.0)
    assert hour.coverage == pytest.approx(0.5)
    assert hour.estimated_share == pytest.approx(0.5)
    assert {"gap", "estimated"} <= set(hour.flags)
    assert plant.account("drying").coverage == 1.0


def test_over_a_silence_beyond_the_limit_nothing_is_made_up(connect: Callable[[], Connection]) -> None:
    plant = SmallPlant(connect, config=SettleConfig(estimate_limit_s=7200))
    plant.send_many(
        [
            ("dryer/energy", steady(60.0, -HOUR_US, HOUR_US) + steady(60.0, 4 * HOUR_US, 6 * HOUR_US)),
            ("mill/energy", steady(60.0, -HOUR_US, 6 * HOUR_US)),
        ]
    )
    plant.settle()
    inside = plant.account("drying", start_us=2 * HOUR_US)
    assert (inside.use, inside.coverage) == (None, 0.0)
    assert plant.account("drying", start_us=4 * HOUR_US).use == pytest.approx(60.0)


def test_rollover_reset_and_transient_zero_are_told_apart(connect: Callable[[], Connection]) -> None:
    points = [counter("mill", modulus=1e6, max_rate_per_h=1000.0), *(p for p in POINTS if p.device != "mill")]
    plant = SmallPlant(connect, points=points)
    first = [(at, (value - 1000 + 999_990) % 1e6) for at, value in steady(60.0, -HOUR_US, 2 * HOUR_US)]
    zero = [
        (at, 0.0 if at == MIDNIGHT_US + 90 * MINUTE_US else value) for at, value in steady(30.0, -HOUR_US, 2 * HOUR_US)
    ]
    fall = [
        (at, value if at < MIDNIGHT_US + 90 * MINUTE_US else value - 1000)
        for at, value in steady(90.0, -HOUR_US, 2 * HOUR_US)
    ]
    plant.send_many([("mill/energy", first), ("fans/energy", zero), ("dryer/energy", fall)])
    plant.settle()
    rolled, later = (
        {
            point: (amount, flags)
            for point, _, amount, _, _, flags in plant.account("grinding", start_us=at).inputs["use"]
        }
        for at in (0, HOUR_US)
    )
    assert rolled["mill/energy"] == (60_000_000, ["rollover"])
    assert later["fans/energy"] == (30_000_000, ["transient"])
    amount, flags = later["dryer/energy"]
    assert flags == ["reset"]
    assert amount == pytest.approx(90e6 * 59 / 60)


def test_uncertain_time_is_no_base_for_accounts_and_other_doubts_are(plant: SmallPlant) -> None:
    series = steady(60.0, -HOUR_US, 2 * HOUR_US)
    doubtful = [(at, value, 64) for at, value in series[::2]]
    late = [(at, value + 5, 66) for at, value in series[1::2]]
    plant.send("dryer/energy", [*doubtful, *late])
    plant.settle()
    hour = plant.account("drying")
    assert hour.use == pytest.approx(60.0)
    assert hour.coverage == 1.0


def test_counters_in_any_unit_come_out_alike(connect: Callable[[], Connection]) -> None:
    points = [
        counter("mill", unit="Wh", scale=1.0),
        counter("fans", unit="MWh", scale=1e-9),
        counter("dryer", value_type="int", scale=1.0),
        counter("incomer", unit="GJ", scale=1e-6),
        *(p for p in POINTS if p.device not in ("mill", "fans", "dryer", "incomer")),
    ]
    plant = SmallPlant(connect, points=points)
    series = steady(60.0, -HOUR_US, 2 * HOUR_US)
    plant.send_many(
        [
            ("mill/energy", [(at, value * 1000) for at, value in series]),
            ("fans/energy", [(at, value / 1000) for at, value in series]),
            ("dryer/energy", [(at, round(value)) for at, value in series]),
            ("incomer/energy", [(at, value * 0.0036) for at, value in series]),
        ]
    )
    plant.settle()
    amounts = [amount for _, _, amount, *_ in plant.account("balance:electricity").inputs["use"]]
    assert amounts[1:] == [60_000_000] * 3
    assert amounts[0] == pytest.approx(60_000_000, abs=2)


@pytest.mark.parametrize(
    ("policy", "value", "year", "provisional"), [("exact", None, None, None), ("latest-published", 0.7252, 2022, True)]
)
def test_a_year_without_factor_is_named_or_stands_in_marked(
    connect: Callable[[], Connection],
    caplog: pytest.LogCaptureFixture,
    policy: str,
    value: float | None,
    year: int | None,
    *,
    provisional: bool | None,
) -> None:
    plant = SmallPlant(connect, MODEL + f'\n[factors]\npolicy = "{policy}"\n')
    years = 3 * 365 * DAY_US
    plant.send("dryer/energy", [(at + years, v) for at, v in steady(60.0, 0, 3 * HOUR_US)])
    plant.settle()
    hour = plant.account("drying", start_us=years + HOUR_US)
    assert hour.use == pytest.approx(60.0)
    if value is None:
        assert (hour.co2_kg, hour.factor) == (None, None)
        assert any("河北 for 2025" in note for note in hour.notes)
        assert caplog.text.count("no CO2 of electricity at works in 2025") == 1
    else:
        assert hour.co2_kg == pytest.approx(60 * value)
        assert hour.factor is not None
        assert (hour.factor["value"], hour.factor["year"], hour.factor["provisional"]) == (value, year, provisional)


def test_days_of_daylight_saving_have_23_and_25_hours(connect: Callable[[], Connection]) -> None:
    text = MODEL.replace("Asia/Shanghai", "Europe/Berlin").replace('region = "河北"\n', "")
    plant = SmallPlant(connect, text)
    for month_day, hours in (("03-27", 23), ("10-30", 25)):
        (start,) = plant.conn.execute(
            f"SELECT (extract(epoch FROM timestamp '2022-{month_day}' AT TIME ZONE 'Europe/Berlin') * 1000000)::bigint"
        ).fetchall()[0]
        offset = start - MIDNIGHT_US
        plant.send("dryer/energy", steady(60.0, offset - HOUR_US, offset + 26 * HOUR_US, 10_000_000.0))
        plant.settle()
        day = plant.account("drying", period="day", start_us=offset)
        assert day.use == pytest.approx(60.0 * hours)
        assert day.coverage == 1.0
        inside = [
            row
            for row in plant.rows(process="drying", carrier="electricity", period="hour")
            if start <= row.start_us < start + hours * HOUR_US
        ]
        assert len(inside) == hours
        assert "names no region" in day.notes[0]


def test_a_standing_step_has_use_and_no_use_per_tonne(plant: SmallPlant) -> None:
    _feed(plant, last_us=HOUR_US)
    names = ("mill/energy", "fans/energy", "dryer/energy", "dryer/coal")
    plant.send_many(
        [(name, steady(6.0, HOUR_US + MINUTE_US, 4 * HOUR_US, 1200.0)) for name in names]
        + [("scale/mass", [(at, 1010.0) for at, _ in steady(0.0, HOUR_US + MINUTE_US, 4 * HOUR_US)])]
    )
    plant.settle()
    hour = plant.account("grinding", start_us=2 * HOUR_US)
    assert hour.use == pytest.approx(18.0)
    assert (hour.output, hour.unit_use) == (0.0, None)
    assert "no meal was made: no use per unit of it" in hour.notes


def test_a_point_that_is_no_counter_is_refused_aloud(
    connect: Callable[[], Connection], caplog: pytest.LogCaptureFixture
) -> None:
    plant = SmallPlant(connect, MODEL.replace("pumps/volume", "mill/power"))
    plant.send("mill/power", steady(60.0, 0, 3 * HOUR_US))
    plant.send("dryer/energy", steady(60.0, 0, 3 * HOUR_US))
    plant.settle()
    assert f"point {SITE}/mill/power of the plant model can't be used: it is a gauge" in caplog.text
    assert plant.account("pumping", "water", start_us=HOUR_US).use is None
