"""A plant whose specific uses nobody knows: every account equals what was really consumed."""

from __future__ import annotations

import random
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from accounting import model
from deploy.local.broker import Broker, local_broker
from deploy.local.stack import Stack
from deploy.local.tally import readings_sent, tally
from device_sims import truth as truth_log
from protocols.timebase import US
from tests.support.plants import FIRST, PACK, cement_plant
from tests.support.waiting import wait_until

SPEED = 360
HOURS = 3
TOLERANCE = 0.001


@pytest.mark.timeout(300)
def test_every_account_equals_the_truth_on_the_embedded_stack(plain_database_dsn: str, tmp_path: Path) -> None:
    broker = local_broker(tmp_path, kind="amqtt")
    broker.start()
    try:
        _run(plain_database_dsn, broker, tmp_path)
    finally:
        broker.child.kill()


@pytest.mark.timeout(300)
def test_every_account_equals_the_truth_on_timescaledb_and_mosquitto(
    timescale_database_dsn: str, mosquitto: Broker, tmp_path: Path
) -> None:
    _run(timescale_database_dsn, mosquitto, tmp_path)


def _run(dsn: str, broker: Broker, tmp_path: Path) -> None:
    seed = random.randrange(1_000_000)
    arguments = ["--seed", str(seed), "--draw-specific-uses"]
    end_us = round(FIRST.timestamp() + HOURS * 3600) * US
    with cement_plant(tmp_path / "plant", dsn, broker, SPEED, arguments) as stack:

        def passed() -> bool:
            stack.require()
            return stack.clock.now_us() > end_us + 900 * US

        wait_until(passed, "the plant's hours pass", 120)
        stack.agent.stop(timeout_s=90)
        stack.fleet.stop()
        stack.wait_until_settled()
        counted = tally(dsn, readings_sent(stack.agent_report_file))
        assert counted.clean, str(counted)
        _compare(stack, truth_log.load(stack.truth_file), f"seed {seed}")


def _compare(stack: Stack, truth: truth_log.Truth, hint: str) -> None:
    """Hold every hour account of every process and carrier against the truth log."""
    plant = model.load((PACK / "plant.toml").read_text(encoding="utf-8"), "plant.toml")
    first_us = round(FIRST.timestamp()) * US
    compared = 0
    for hour in range(HOURS):
        from_us, to_us = (first_us + (hour + n) * 3600 * US for n in (0, 1))
        accounts = {
            (account["process"], account["carrier"]): account for account in _hour_accounts(stack, from_us, to_us)
        }
        for process in plant.processes:
            meters = plant.meters_of(process.name)
            outputs = plant.outputs_of(process.name)
            made = sum(_true_use(truth, output.point, from_us, to_us) for output in outputs)
            for carrier in {meter.carrier for meter in meters}:
                used = sum(
                    _true_use(truth, meter.point, from_us, to_us) * meter.share
                    for meter in meters
                    if meter.carrier == carrier
                )
                where = f"{process.name}, {carrier}, hour {hour}, {hint}"
                account = accounts[process.name, carrier]
                assert account["use"]["value"] == pytest.approx(used, rel=TOLERANCE), where
                assert account["use"]["coverage"] == pytest.approx(1, abs=1e-3), where
                if outputs:
                    assert account["output"]["value"] == pytest.approx(made, rel=TOLERANCE), where
                    if made:
                        assert account["unit_use"]["value"] == pytest.approx(used / made, rel=TOLERANCE), where
                compared += 1
    assert compared >= HOURS * len(plant.processes)


def _hour_accounts(stack: Stack, from_us: int, to_us: int) -> list[dict[str, Any]]:
    query = {"site": "cement", "period": "hour", "from": _iso(from_us), "to": _iso(to_us), "limit": 1000}
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
