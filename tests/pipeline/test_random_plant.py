"""A plant whose specific uses nobody knows: every account equals what was really consumed."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from accounting import model
from accounting.model import Plant
from deploy.local.broker import Broker, local_broker
from deploy.local.stack import Stack
from deploy.local.tally import readings_sent, tally
from device_sims import truth as truth_log
from protocols.timebase import US
from tests.support.plants import FIRST, PACK, cement_plant
from tests.support.waiting import wait_until

TOLERANCE = 0.001
HOUR_SPEED = 60
"""Slow enough that what is left of a residual's error is the resolution of the meters' registers (0.02 % of an
hour's): at 360 times real time a millisecond of a request's way is 2 kWh of the incomer, 0.6 % of the residual."""
DAY_SPEED = 1440
GRID_KG_PER_KWH = 0.7252
"""Hebei, 2022, location-based: the ministry's table of provincial factors."""
COAL_KG_PER_T = 23.204 * 26.18 * 0.93 * 44 / 12
"""Heating value [GJ/t], carbon content [kg/GJ], oxidised share, and CO₂ per carbon of bituminous coal."""
CO2_KG = {"electricity": GRID_KG_PER_KWH, "bituminous coal": COAL_KG_PER_T}
LOSS = "distribution_loss"


@pytest.mark.timeout(300)
def test_every_day_account_equals_the_truth_on_the_embedded_stack(plain_database_dsn: str, tmp_path: Path) -> None:
    broker = local_broker(tmp_path, kind="amqtt")
    broker.start()
    try:
        day = FIRST.replace(hour=0)
        with _settled(plain_database_dsn, broker, tmp_path, day, DAY_SPEED, 24) as (stack, truth, hint):
            _compare(stack, truth, "day", day, day + timedelta(days=1), hint)
    finally:
        broker.child.kill()


@pytest.mark.timeout(300)
def test_every_hour_account_equals_the_truth_on_timescaledb_and_mosquitto(
    timescale_database_dsn: str, mosquitto: Broker, tmp_path: Path
) -> None:
    with _settled(timescale_database_dsn, mosquitto, tmp_path, FIRST, HOUR_SPEED, 1) as (stack, truth, hint):
        _compare(stack, truth, "hour", FIRST, FIRST + timedelta(hours=1), hint)


@contextmanager
def _settled(
    dsn: str, broker: Broker, directory: Path, first: datetime, speed: float, hours: float
) -> Iterator[tuple[Stack, truth_log.Truth, str]]:
    """A plant with uses drawn anew, run for some hours, stopped and settled; with its truth."""
    seed = random.randrange(1_000_000)
    arguments = ["--seed", str(seed), "--draw-specific-uses"]
    end_us = round(first.timestamp() + hours * 3600) * US
    with cement_plant(directory / "plant", dsn, broker, speed, arguments, first) as stack:

        def passed() -> bool:
            stack.require()
            # Some polls beyond the end, so that the last interval has readings behind it.
            return stack.clock.now_us() > end_us + 300 * US

        wait_until(passed, "the plant's hours pass", 180)
        stack.agent.stop(timeout_s=90)
        stack.fleet.stop()
        stack.wait_until_settled()
        counted = tally(dsn, readings_sent(stack.agent_report_file))
        assert counted.clean, str(counted)
        yield stack, truth_log.load(stack.truth_file), f"seed {seed}"


def _compare(stack: Stack, truth: truth_log.Truth, period: str, first: datetime, last: datetime, hint: str) -> None:
    """Hold every account of an hour or a day, of processes and balances, against the truth log."""
    plant = model.load((PACK / "plant.toml").read_text(encoding="utf-8"), "plant.toml")
    from_us, to_us = (round(at.timestamp()) * US for at in (first, last))
    accounts = {
        (account["process"], account["carrier"]): account for account in _accounts(stack, period, from_us, to_us)
    }
    for key, (used, made) in _expected(plant, truth, from_us, to_us).items():
        where = f"{key}, {period} from {first}, {hint}"
        account = accounts.pop(key)
        assert account["use"]["value"] == pytest.approx(used, rel=TOLERANCE), where
        assert account["use"]["coverage"] == pytest.approx(1, abs=1e-3), where
        kg = CO2_KG.get(key[1])
        if kg is None:
            assert account["co2"]["value"] is None, where
        else:
            assert account["co2"]["value"] == pytest.approx(used * kg, rel=TOLERANCE), where
        if made is None:
            assert account["output"] is None, where
            continue
        assert account["output"]["value"] == pytest.approx(made, rel=TOLERANCE), where
        if made:
            assert account["unit_use"]["value"] == pytest.approx(used / made, rel=TOLERANCE), where
        if made and kg is not None:
            assert account["co2"]["per_output"]["value"] == pytest.approx(used * kg / made, rel=TOLERANCE), where
    assert not accounts, f"accounts that nothing was compared with: {list(accounts)}"


def _expected(
    plant: Plant, truth: truth_log.Truth, from_us: int, to_us: int
) -> dict[tuple[str, str], tuple[float, float | None]]:
    """True use and output (None: a process without one) of every process and balance, by carrier."""
    expected: dict[tuple[str, str], tuple[float, float | None]] = {}
    for process in plant.processes:
        meters = plant.meters_of(process.name)
        outputs = plant.outputs_of(process.name)
        made = sum(_true_use(truth, output.point, from_us, to_us) for output in outputs) if outputs else None
        for carrier in {meter.carrier for meter in meters}:
            used = sum(
                _true_use(truth, meter.point, from_us, to_us) * meter.share
                for meter in meters
                if meter.carrier == carrier
            )
            expected[process.name, carrier] = used, made
    for balance in plant.balances:
        expected[f"balance:{balance.name}", balance.carrier] = truth.use(LOSS, from_us, to_us), None
    return expected


def _accounts(stack: Stack, period: str, from_us: int, to_us: int) -> list[dict[str, Any]]:
    query = {"site": "cement", "period": period, "from": _iso(from_us), "to": _iso(to_us), "limit": 1000}
    answer = stack.get("/v1/accounts", **query)
    assert answer["next"] is None
    return list(answer["accounts"])


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / US, UTC).isoformat()


def _true_use(truth: truth_log.Truth, point: str, from_us: int, to_us: int) -> float:
    """What the meter behind a point truly measured."""
    if point == STANDING:
        return 0.0
    return truth.use(truth.header["points"][NODES.get(point, point)], from_us, to_us)


def _nodes() -> dict[str, str]:
    """OPC-UA points as the agent calls them → as the fleet does, by node."""
    agent = tomllib.loads((PACK / "agent.toml").read_text(encoding="utf-8"))
    return {
        f"{device['name']}/{tag['name']}": f"{device['name']}/{tag['node'].partition(';s=')[2]}"
        for device in agent["device"]
        for tag in device.get("tag", ())
        if "node" in tag
    }


NODES = _nodes()
STANDING = "whr_generator/active_energy_import"
"""A register of the generator's meter that its plant never moves, since it always delivers."""
