"""A device that answers nonsense, or not at all, shows as bad quality and a gap, and the others go on."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.local.broker import local_broker
from deploy.local.stack import Stack
from device_sims import truth as truth_log
from device_sims.truth import Truth
from protocols.timebase import US
from tests.support.plants import FIRST
from tests.support.small_pack import METERS, SITE, small_stack
from tests.support.waiting import wait_until

SPEED = 400
TOLERANCE = 0.001
HOUR = FIRST, FIRST + timedelta(hours=1)
BROKEN, REPAIRED = FIRST + timedelta(minutes=15), FIRST + timedelta(minutes=45)
FAULTS = {
    "fans": f'{{ kind = "silent", from = "{BROKEN.isoformat()}" }}',
    "kiln": f'{{ kind = "nan", from = "{BROKEN.isoformat()}", to = "{REPAIRED.isoformat()}" }}',
    "pumps": '{ kind = "length" }',
}


@pytest.mark.timeout(200)
def test_bad_devices_show_as_bad_and_as_gaps_and_the_others_are_complete(
    plain_database_dsn: str, tmp_path: Path
) -> None:
    broker = local_broker(tmp_path, kind="amqtt")
    broker.start()
    try:
        with small_stack(tmp_path / "plant", plain_database_dsn, broker, SPEED, FAULTS) as stack:

            def passed() -> bool:
                stack.require()
                return stack.clock.now_us() > _us(HOUR[1]) + 600 * US

            wait_until(passed, "the plant's hour passes", 120)
            stack.agent.stop(timeout_s=60)
            stack.fleet.stop()
            stack.wait_until_settled()
            truth = truth_log.load(stack.truth_file)
            for device in ("mill", "packer"):
                _require_complete(stack, truth, device)
            _require_silent(stack, truth)
            _require_interrupted(stack, truth)
            _require_never_known(stack)
    finally:
        broker.child.kill()


def _require_complete(stack: Stack, truth: Truth, device: str) -> None:
    account, readings = _account(stack, device), _readings(stack, device)
    assert set(readings.values()) <= {"good", "uncertain_time"}
    assert account["use"]["value"] == pytest.approx(_used(truth, device, *HOUR), rel=TOLERANCE)
    assert account["use"]["coverage"] == pytest.approx(1, abs=1e-3)
    assert account["use"]["estimated_share"] == 0


def _require_silent(stack: Stack, truth: Truth) -> None:
    """Good until it broke; then one bad reading without a value, and no use that nobody measured."""
    account, readings = _account(stack, "fans"), _readings(stack, "fans")
    bad = [at for at, quality in readings.items() if quality == "bad_timeout"]
    assert len(bad) == 1
    assert bad[0] >= BROKEN
    assert max(at for at, quality in readings.items() if quality == "good") < bad[0]
    assert 0 < account["use"]["value"] <= _used(truth, "fans", HOUR[0], BROKEN) * (1 + TOLERANCE)
    assert 0 < account["use"]["coverage"] <= 0.25
    assert account["use"]["estimated_share"] == 0


def _require_interrupted(stack: Stack, truth: Truth) -> None:
    """The counter went on while its register made no sense: all of its use is known, half of its course is not."""
    account, readings = _account(stack, "kiln"), _readings(stack, "kiln")
    bad = [at for at, quality in readings.items() if quality == "bad_nonsense"]
    assert len(bad) == 1
    assert BROKEN <= bad[0] < REPAIRED
    assert account["use"]["value"] == pytest.approx(_used(truth, "kiln", *HOUR), rel=TOLERANCE)
    assert 0.3 < account["use"]["coverage"] <= 0.5
    assert 0.4 < account["use"]["estimated_share"] < 0.7
    assert {"gap", "estimated"} <= set(account["flags"])


def _require_never_known(stack: Stack) -> None:
    """No use is not a use of 0."""
    account, readings = _account(stack, "pumps"), _readings(stack, "pumps")
    assert set(readings.values()) == {"bad_nonsense"}
    assert (account["use"]["value"], account["use"]["coverage"]) == (None, 0)
    assert account["unit_use"]["value"] is None
    assert account["notes"] == ["nothing is known of pumps/volume"]


def _account(stack: Stack, device: str) -> dict[str, Any]:
    query = {"site": SITE, "process": device, "period": "hour"}
    answer = stack.get("/v1/accounts", **query, **{"from": HOUR[0].isoformat(), "to": HOUR[1].isoformat()})
    (account,) = answer["accounts"]
    return dict(account)


def _readings(stack: Stack, device: str) -> dict[datetime, str]:
    """Qualities of a device's readings by time; a bad reading has no value, any other one has."""
    query = {"point": f"{SITE}/{device}/{METERS[device][2]}", "limit": 5000}
    span = {"from": (HOUR[0] - timedelta(days=1)).isoformat(), "to": (HOUR[1] + timedelta(days=1)).isoformat()}
    columns = stack.get("/v1/readings", **query, **span)["columns"]
    for value, quality in zip(columns["value"], columns["quality"], strict=True):
        assert (value is None) == quality.startswith("bad"), (value, quality)
    return dict(zip(map(datetime.fromisoformat, columns["at"]), columns["quality"], strict=True))


def _used(truth: Truth, device: str, first: datetime, end: datetime) -> float:
    return truth.use(truth.header["points"][f"{device}/{METERS[device][2]}"], _us(first), _us(end))


def _us(at: datetime) -> int:
    return round(at.timestamp()) * US
