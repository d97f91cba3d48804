"""A running agent as its operator meets it: metrics, systemd, a new configuration without a stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Kind, Record
from edge_agent.config import Buffer
from edge_agent.signals import Signals
from tests.support import edge
from tests.support.agents import Agent
from tests.support.fake_store import FakeStore
from tests.support.modbus_responder import Asked, Reply, Responder
from tests.support.waiting import wait_until


@pytest.fixture
def run() -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def make(*arguments: str, **environment: str) -> Agent:
        agents.append(Agent("run", *arguments, environment=environment))
        return agents[-1]

    yield make
    for agent in agents:
        agent.kill()


def write(folder: Path, broker_port: int, modbus_port: int, *tags: str, extra: str = "", name: str = "mill") -> Path:
    path = folder / "agent.toml"
    device = edge.device(name, *(tags or (edge.register("a", 1),)), extra="poll_interval_s = 0.1")
    parts = edge.head(folder / "b.sqlite", broker_port), extra, edge.modbus(modbus_port), device
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


async def reaches(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


def page(port: int) -> dict[str, str]:
    """The metrics; empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return {}
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


async def test_a_running_agent_serves_its_metrics(
    tmp_path: Path, run: Callable[..., Agent], unused_tcp_port: int
) -> None:
    async with Responder(Asked.counting) as meter:
        # Nobody listens where the broker should be, so what is read stays pending.
        path = write(tmp_path, 1, meter.port, extra=f"[metrics]\nport = {unused_tcp_port}")
        agent = run(str(path), "--drain-s", "0")
        polls = 'metercarbon_agent_polls_total{connection="bus",device="mill"}'
        age = "metercarbon_agent_oldest_pending_age_seconds"

        def counts() -> bool:
            found = page(unused_tcp_port)
            return int(found.get(polls, 0)) > 3 and float(found.get(age, 0)) > 0.5

        await reaches(counts, "polls and pending readings in the metrics")
        found = await asyncio.to_thread(page, unused_tcp_port)
        assert int(found["metercarbon_agent_outbox_commits_total"]) > 0
        assert int(found["metercarbon_agent_outbox_bytes"]) > 0
        assert int(found["metercarbon_agent_outbox_readings_pending"]) > 0
        code, log = await asyncio.to_thread(agent.stop)
        assert code == 0, log


async def test_a_port_that_is_taken_costs_the_metrics_only(tmp_path: Path, run: Callable[..., Agent]) -> None:
    async with Responder(Asked.counting) as meter:
        agent = run(str(write(tmp_path, 1, meter.port, extra=f"[metrics]\nport = {meter.port}")), "--drain-s", "0")
        await reaches(lambda: len(meter.asked) > 5, "polls")
        code, log = await asyncio.to_thread(agent.stop)
        assert code == 0
        assert f"metrics can't be served on 127.0.0.1:{meter.port}" in log


async def test_systemd_hears_that_the_agent_runs_and_makes_progress_until_it_does_not(
    tmp_path: Path, run: Callable[..., Agent]
) -> None:
    silent = asyncio.Event()

    def handler(asked: Asked) -> Reply:
        return None if silent.is_set() else asked.counting()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        said: list[str] = []

        def heard(wanted: str) -> bool:
            while True:
                try:
                    said.append(manager.recv(1000).decode())
                except BlockingIOError:
                    return wanted in said

        async with Responder(handler) as meter:
            path = write(tmp_path, 1, meter.port)
            path.write_text(path.read_text().replace('"modbus-tcp"', '"modbus-tcp"\ntimeout_s = 3600'))
            agent = run(str(path), "--drain-s", "0", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1000000")
            await reaches(lambda: heard("WATCHDOG=1"), "progress")
            assert said[0] == "READY=1"
            # A request that never ends: the process lives, but does nothing.
            silent.set()
            deadline = time.monotonic() + 60
            quiet = 0
            while quiet < 20:
                assert time.monotonic() < deadline
                said.clear()
                heard("WATCHDOG=1")
                quiet = 0 if said else quiet + 1
                await asyncio.sleep(0.1)
            assert agent.process.poll() is None
            agent.process.send_signal(signal.SIGTERM)
            await reaches(lambda: heard("STOPPING=1"), "the goodbye")
            code, log = await asyncio.to_thread(agent.stop)
            assert code == 0, log
            assert "the watchdog is not fed any more: a poll on connection bus has not ended for 1 s" in log


async def test_a_new_configuration_is_taken_without_losing_a_reading(
    mosquitto: Broker, tmp_path: Path, run: Callable[..., Agent]
) -> None:
    async with Responder(Asked.counting) as meter:
        path = write(tmp_path, mosquitto.port, meter.port)
        report = tmp_path / "report.json"
        with FakeStore(mosquitto.host, mosquitto.port) as store:
            agent = run(str(path), "--report", str(report))

            def has(name: str) -> bool:
                return any(found == name for found, *_ in store.readings())

            await reaches(lambda: has("plant/mill/a"), "readings of the first configuration")
            write(tmp_path, mosquitto.port, meter.port, edge.register("a", 1), edge.register("b", 2))
            agent.process.send_signal(signal.SIGHUP)
            await reaches(lambda: has("plant/mill/b"), "readings of the second one")
            code, log = await asyncio.to_thread(agent.stop)
            assert code == 0, log
            assert "the configuration was reloaded" in log
            # One epoch without a hole, through both configurations: whatever was appended has arrived.
            seqs = sorted(seq for _, seq in store.keys)
            assert len({epoch for epoch, _ in store.keys}) == 1
            assert seqs == list(range(1, len(seqs) + 1))
            assert f'"readings_appended": {store.reading_count()}' in report.read_text()
            # Polls go on at their times: the change costs no more than a few of them.
            times = sorted(at for name, at, *_ in store.readings() if name == "plant/mill/a")
            assert len(times) == len(set(times))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace('unit = "degC"', 'unit = "V"'), "unit 'V' does not fit quantity 'temperature'"),
        (lambda text: text + "[[", "not TOML"),
        (
            lambda text: text.replace('tenant = "acme"', 'tenant = "other"'),
            "[agent] changed; allowed: with a restart only",
        ),
        (lambda text: text.replace("b.sqlite", "c.sqlite"), "[buffer] changed"),
        (None, "No such file"),
    ],
)
async def test_a_wrong_configuration_is_refused_with_the_reason_and_the_old_one_goes_on(
    change: Callable[[str], str] | None, reason: str, tmp_path: Path, run: Callable[..., Agent]
) -> None:
    async with Responder(Asked.counting) as meter:
        path = write(tmp_path, 1, meter.port)
        agent = run(str(path), "--drain-s", "0")
        await reaches(lambda: len(meter.asked) > 3, "polls")
        if change is None:
            path.unlink()
        else:
            path.write_text(change(path.read_text()))
        agent.process.send_signal(signal.SIGHUP)
        before = len(meter.asked)
        await reaches(lambda: len(meter.asked) > before + 10, "more polls")
        assert meter.connections == 1
        code, log = await asyncio.to_thread(agent.stop)
        assert code == 0
        assert "the configuration was not reloaded, the old one stays: " in log
        assert reason in log


def test_the_outbox_adopts_a_schema_with_its_birth_before_its_data(tmp_path: Path) -> None:
    first, second = (
        edge.plan(edge.head(), edge.modbus(1), edge.device("mill", *tags)).schema
        for tags in ((edge.register("a", 1),), (edge.register("a", 1), edge.register("b", 2)))
    )
    outbox = Outbox(Buffer(path=tmp_path / "b.sqlite"), "acme", "gw1", first, lambda: 1_000_000, Signals())
    handed: list[Record] = []
    outbox.deliver_to(lambda _, records: handed.extend(records))
    try:
        outbox.restart(1).result(60)
        outbox.adopt(second).result(60)
        outbox.grant(1, 10, 10).result(60)
        wait_until(lambda: len(handed) == 2, "both births")
        assert [(record.kind, record.detail) for record in handed] == [
            (Kind.BIRTH, first.id()),
            (Kind.BIRTH, second.id()),
        ]
    finally:
        outbox.close()
