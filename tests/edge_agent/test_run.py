"""The program as it is started and stopped: command line, exit codes, draining, the report."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from deploy.local.broker import Broker
from edge_agent import config
from edge_agent.__main__ import main
from protocols.quality import Quality
from tests.support import edge
from tests.support.agents import ROOT, Agent
from tests.support.fake_store import FakeStore
from tests.support.modbus_responder import Asked, Reply, Responder
from tests.support.waiting import wait_until


def agent_file(folder: Path, broker_port: int, modbus_port: int, mqtt_version: int = 5, extra: str = "") -> Path:
    path = folder / "agent.toml"
    path.write_text(
        "\n".join(
            [
                edge.head(folder / "buffer.sqlite", broker_port, mqtt_version),
                edge.modbus(modbus_port, extra="timeout_s = 0.3"),
                edge.device("meter", edge.register("a", 1), edge.register("b", 2), extra="poll_interval_s = 0.1"),
                edge.device("dead", edge.register("a", 1), unit_id=9, extra="poll_interval_s = 0.1"),
                extra,
            ]
        ),
        encoding="utf-8",
    )
    return path


def handler(asked: Asked) -> Reply:
    return None if asked.unit == 9 else asked.counting()


@pytest.fixture
def run() -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def make(*arguments: str) -> Agent:
        agents.append(Agent("run", *arguments))
        return agents[-1]

    yield make
    for agent in agents:
        agent.kill()


async def reaches(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


async def test_a_run_sends_everything_and_ends_with_zero(
    mosquitto: Broker, tmp_path: Path, run: Callable[..., Agent]
) -> None:
    report = tmp_path / "report.json"
    async with Responder(handler) as responder:
        with FakeStore(mosquitto.host, mosquitto.port) as store:
            agent = run(str(agent_file(tmp_path, mosquitto.port, responder.port)), "--report", str(report))
            await reaches(lambda: store.reading_count() > 20, "readings")
            code, log = await asyncio.to_thread(agent.stop)
            assert code == 0, log
            totals = orjson.loads(report.read_bytes())
            assert totals["readings_appended"] == store.reading_count()
            assert (totals["records_pending"], totals["readings_pending"]) == (0, 0)
            assert totals["epochs"] == [key[0] for key in store.order[:1]]
            assert totals["polls"] > 20
            assert totals["redelivered"] == 0
            # One JSON line of totals ends the log.
            assert orjson.loads(log[log.index('{"epochs"') :].splitlines()[0]) == totals
            wait_until(lambda: store.sessions[-1].state == "offline", "the goodbye")
            values = {(name, value, quality) for name, _, value, quality in store.readings()}
            assert values == {
                ("plant/meter/a", 1, Quality.GOOD),
                ("plant/meter/b", 2, Quality.GOOD),
                ("plant/dead/a", None, Quality.BAD_TIMEOUT),
            }
            # The dead unit is told once.
            assert [quality for _, _, _, quality in store.readings()].count(Quality.BAD_TIMEOUT) == 1


async def test_without_a_broker_everything_waits_in_the_buffer_for_the_next_run(
    mosquitto: Broker, tmp_path: Path, run: Callable[..., Agent]
) -> None:
    mosquitto.child.kill()
    report = tmp_path / "report.json"
    async with Responder(handler) as responder:
        path = agent_file(tmp_path, mosquitto.port, responder.port)
        agent = run(str(path), "--drain-s", "0.5", "--report", str(report))
        await reaches(lambda: len(responder.asked) > 20, "some polls")
        code, log = await asyncio.to_thread(agent.stop)
        assert code == 0, log
        assert "not committed yet; they stay in the buffer" in log
        first = orjson.loads(report.read_bytes())
        assert first["readings_pending"] == first["readings_appended"] > 0
        mosquitto.start()
        with FakeStore(mosquitto.host, mosquitto.port) as store:
            again = run(str(path), "--report", str(report))
            await reaches(lambda: store.reading_count() > first["readings_appended"] + 10, "old and new readings")
            code, log = await asyncio.to_thread(again.stop)
            assert code == 0, log
            totals = orjson.loads(report.read_bytes())
            assert totals["readings_appended"] == store.reading_count()
            assert len({epoch for epoch, _ in store.order}) == 2


async def test_a_killed_agent_loses_nothing_that_was_in_its_buffer(
    mosquitto: Broker, tmp_path: Path, run: Callable[..., Agent]
) -> None:
    async with Responder(handler) as responder:
        path = agent_file(tmp_path, mosquitto.port, responder.port)
        with FakeStore(mosquitto.host, mosquitto.port) as store:
            store.taking = lambda _: False
            agent = run(str(path))
            await reaches(lambda: len(store.seen) > 5, "messages that are not committed")
            await asyncio.to_thread(agent.stop, signal.SIGKILL)
            before = set(store.seen)
            store.taking = lambda _: True
            report = tmp_path / "report.json"
            again = run(str(path), "--report", str(report))
            await reaches(lambda: before <= store.keys, "the same messages again")
            code, log = await asyncio.to_thread(again.stop)
            assert code == 0, log
            totals = orjson.loads(report.read_bytes())
            assert totals["readings_appended"] == store.reading_count()
            assert totals["redelivered"] >= len(before)
            assert not store.conflicts


async def test_a_second_signal_ends_the_draining(tmp_path: Path, run: Callable[..., Agent]) -> None:
    async with Responder(handler) as responder:
        # Nobody listens where the broker should be.
        agent = run(str(agent_file(tmp_path, 1, responder.port)), "--drain-s", "1000")
        await reaches(lambda: len(responder.asked) > 5, "some polls")
        agent.process.send_signal(signal.SIGTERM)
        asked = len(responder.asked)
        await asyncio.sleep(1)
        assert agent.process.poll() is None
        code, _ = await asyncio.to_thread(agent.stop)
        assert code == 0
        # Polling stopped with the first one.
        assert len(responder.asked) <= asked + 5


async def test_a_second_agent_on_the_same_buffer_is_refused(tmp_path: Path, run: Callable[..., Agent]) -> None:
    async with Responder(handler) as responder:
        path = agent_file(tmp_path, 1, responder.port)
        first = run(str(path), "--drain-s", "0")
        await reaches(lambda: len(responder.asked) > 5, "some polls")
        second = run(str(path))
        _, errors = await asyncio.to_thread(second.process.communicate, None, 60)
        assert second.process.returncode == 1
        assert f"in use by process {first.process.pid}; allowed: one agent per buffer file" in errors.decode()
        await asyncio.to_thread(first.stop)


async def test_an_accelerated_plant_time_stamps_readings_in_the_past(
    mosquitto: Broker, tmp_path: Path, run: Callable[..., Agent]
) -> None:
    origin_us = 1_655_136_000_000_000
    clock = f'[clock]\norigin = "2022-06-14T00:00:00+08:00"\nanchor_us = {time.time_ns() // 1000}\nspeed = 600\n'
    async with Responder(Asked.counting) as responder:
        path = tmp_path / "agent.toml"
        device = edge.device("meter", edge.register("a", 1), extra="poll_interval_s = 60\ngap_limit_s = 900")
        path.write_text(edge.head(tmp_path / "b", mosquitto.port) + clock + edge.modbus(responder.port) + device)
        with FakeStore(mosquitto.host, mosquitto.port) as store:
            agent = run(str(path))
            await reaches(lambda: store.reading_count() >= 20, "readings")
            code, log = await asyncio.to_thread(agent.stop)
            assert code == 0, log
            times = sorted(at for _, at, _, _ in store.readings())
            assert all(origin_us < at < origin_us + 86_400 * 1_000_000 for at in times)
            # One per plant minute: shortly after the full minute, since that is when the request was made.
            minutes = [(at - origin_us) // 60_000_000 for at in times]
            assert len(set(minutes)) >= len(minutes) - 2
            assert all(batch.clock.synchronised for batch in store.batches.values())


# The command line without a run


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, expected in (("--version", "edge-agent "), ("--help", "check-config")):
        with pytest.raises(SystemExit) as ended:
            main([argument])
        assert ended.value.code == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["walk"], ["run"], ["run", "a.toml", "--drain-s", "-1"]])
def test_wrong_usage_ends_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check-config", "plan", "run"])
def test_a_wrong_configuration_ends_with_two(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("[agent]\n")
    assert main([command, str(path)]) == 2
    assert "agent.toml: agent.tenant: Field required" in capsys.readouterr().err
    assert main([command, str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err


def test_the_sample_passes_its_own_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["print-config"]) == 0
    text = capsys.readouterr().out
    assert text == config.sample()
    path = tmp_path / "agent.toml"
    path.write_text(text)
    assert main(["check-config", str(path)]) == 0
    summary = r": ok, \d+ points of \d+ devices on \d+ connections, \d+ Modbus requests per cycle\n"
    assert re.search(summary, capsys.readouterr().out)


def test_checking_connects_to_nobody_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = agent_file(tmp_path, 1, 1)
    assert main(["check-config", str(path)]) == 0
    assert sorted(found.name for found in tmp_path.iterdir()) == ["agent.toml"]
    assert capsys.readouterr().err == ""


def test_the_plan_shows_each_request_with_its_tags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = agent_file(
        tmp_path,
        1,
        502,
        extra=edge.opcua("opc.tcp://h:1")
        + edge.device("kiln", edge.node("feed", "i=5"), connection="dcs", unit_id=None),
    )
    assert main(["plan", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "connection bus: 127.0.0.1:502",
        "  device meter: unit_id 1, every 0.1 s",
        "    holding 1 to 2, about 10.0 ms",
        "      a [degC]: 1 uint16",
        "      b [degC]: 2 uint16",
        "  device dead: unit_id 9, every 0.1 s",
        "    holding 1 to 1, about 10.0 ms",
        "      a [degC]: 1 uint16",
        "connection dcs: opc.tcp://h:1",
        "  device kiln: every 1 s",
        "    feed [degC]: i=5",
    ]


def test_a_gateway_install_imports_nothing_heavy() -> None:
    """Neither the cloud's libraries, nor OPC-UA before a configuration asks for it."""
    script = (
        "import sys, edge_agent.__main__\n"
        "print(sorted({'numpy', 'numba', 'polars', 'fastapi', 'psycopg', 'asyncua'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
