"""A whole agent with a dead unit, as its operator sees it: every figure, the status topic, the watchdog, a stop."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from deploy.local.broker import Broker
from edge_agent import SOFTWARE
from protocols import status, topics
from protocols.status import Status
from tests.support import edge
from tests.support.agents import Agent
from tests.support.fake_store import FakeStore
from tests.support.modbus_responder import Asked, Reply, Responder
from tests.support.waiting import wait_until

PREFIX = "metercarbon_agent_"


@pytest.fixture
def run() -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def make(*arguments: str, **environment: str) -> Agent:
        agents.append(Agent("run", *arguments, environment=environment))
        return agents[-1]

    yield make
    for agent in agents:
        agent.kill()


def write(folder: Path, broker_port: int, modbus_port: int, extra: str = "", mqtt_extra: str = "") -> Path:
    """Configuration of an agent with two good units and a dead one."""
    path = folder / "agent.toml"
    often = "poll_interval_s = 0.1"
    parts = (
        edge.head(folder / "b.sqlite", broker_port, mqtt=mqtt_extra, polling="probe_interval_s = 1"),
        "[batch]\nmax_age_s = 0.1",
        extra,
        edge.modbus(modbus_port, extra="timeout_s = 0.2"),
        edge.device("mill", edge.register("a", 1), edge.register("b", 2), extra=often),
        edge.device("fan", edge.register("a", 1), unit_id=2, extra=often),
        edge.device("dead", edge.register("a", 1), unit_id=9, extra=often),
    )
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def one_dead(asked: Asked) -> Reply:
    return None if asked.unit == 9 else asked.counting()


def page(port: int) -> dict[str, float]:
    """The metrics; empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return {}
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name.removeprefix(PREFIX): float(value) for name, value in lines}


async def reaches(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


async def test_every_figure_is_there_and_right_while_one_unit_is_dead(
    mosquitto: Broker, tmp_path: Path, run: Callable[..., Agent], unused_tcp_port: int
) -> None:
    async with Responder(one_dead) as meter:
        path = write(tmp_path, mosquitto.port, meter.port, f"[metrics]\nport = {unused_tcp_port}")
        with FakeStore(mosquitto.host, mosquitto.port) as store:
            agent = run(str(path), "--drain-s", "0")
            found: dict[str, float] = {}

            def look() -> bool:
                found.update(page(unused_tcp_port))
                return (
                    found.get('polls_failed_total{connection="bus",device="dead"}', 0) > 5
                    and store.reading_count() > 20
                )

            await reaches(look, "polls of all three")
            # Each unit's polls and errors.
            assert found['polls_total{connection="bus",device="mill"}'] > 5
            assert found['polls_failed_total{connection="bus",device="mill"}'] == 0
            assert found['polls_failed_total{connection="bus",device="fan"}'] == 0
            assert [found[f'points_bad{{device="{name}"}}'] for name in ("mill", "fan", "dead")] == [0, 0, 1]
            assert any(name.startswith("request_failures_total{reason=") and count for name, count in found.items())
            # The bus: busy for part of the time, and polled when it should be.
            assert found['bus_busy_seconds_total{connection="bus"}'] > 0.2
            assert 0 <= found['poll_lag_seconds{connection="bus"}'] < 60
            assert found["requests_total"] >= found['polls_total{connection="bus",device="mill"}']
            # The way to the store.
            assert found["mqtt_version"] == 5
            assert found["published_total"] > 3
            committed = found["commit_latency_seconds_count"]
            assert 0 < committed <= found["published_total"]
            assert found['commit_latency_seconds_bucket{le="+Inf"}'] == committed
            buckets = [count for name, count in found.items() if name.startswith("commit_latency_seconds_bucket")]
            assert buckets == sorted(buckets)
            assert 0 < found["commit_latency_seconds_sum"] < 60 * committed
            assert found["outbox_commits_total"] > 3
            assert found["outbox_bytes"] > 0
            assert found["backlog_window"] >= 4
            assert found["held_back_total"] == 0
            # A store that is down shows in the age and the number of what waits.
            store.answering = False
            await reaches(lambda: page(unused_tcp_port).get("oldest_pending_age_seconds", 0) > 1.5, "old readings")
            waiting = await asyncio.to_thread(page, unused_tcp_port)
            assert waiting["outbox_records_pending"] > 1
            assert waiting["outbox_readings_pending"] > waiting["outbox_records_pending"]
            store.answering = True
            store.say({key[0] for key in store.keys})
            await reaches(lambda: page(unused_tcp_port).get("oldest_pending_age_seconds", 9) < 1.5, "fresh readings")
        code, log = await asyncio.to_thread(agent.stop)
        assert code == 0, log


async def test_each_metric_has_its_help_and_kind_once_and_a_valid_form(
    tmp_path: Path, run: Callable[..., Agent], unused_tcp_port: int
) -> None:
    async with Responder(one_dead) as meter:
        run(str(write(tmp_path, 1, meter.port, f"[metrics]\nport = {unused_tcp_port}")), "--drain-s", "0")
        await reaches(lambda: bool(page(unused_tcp_port)), "the metrics")
        url = f"http://127.0.0.1:{unused_tcp_port}/metrics"
        with await asyncio.to_thread(urllib.request.urlopen, url, None, 10) as answer:
            lines = answer.read().decode().splitlines()
    kinds = [line.split()[2:] for line in lines if line.startswith("# TYPE ")]
    assert len(kinds) == len({name for name, _ in kinds}) == sum(line.startswith("# HELP ") for line in lines)
    assert ["metercarbon_agent_commit_latency_seconds", "histogram"] in kinds
    form = re.compile(r'[a-z_:]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [-+0-9.e]+')
    values = [line for line in lines if not line.startswith("#")]
    assert all(form.fullmatch(line) for line in values), values
    assert all(any(line.startswith(name) for name, _ in kinds) for line in values)


class Listener:
    """Hears the status of all agents."""

    def __init__(self, broker: Broker) -> None:
        self.heard: list[tuple[str, Status, bool, int]] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe("metercarbon/1/+/+/status", qos=1)
        self._client.on_message = self._on_message
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.heard.append((message.topic, status.decode(bytes(message.payload)), message.retain, message.qos))

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()


async def test_the_status_topic_says_how_the_agent_is_and_ingest_is_not_disturbed(
    mosquitto: Broker, tmp_path: Path, run: Callable[..., Agent]
) -> None:
    listener = Listener(mosquitto)
    try:
        async with Responder(one_dead) as meter:
            path = write(tmp_path, mosquitto.port, meter.port, mqtt_extra="status_interval_s = 0.3")
            with FakeStore(mosquitto.host, mosquitto.port) as store:
                agent = run(str(path))

                def settled() -> bool:
                    found = listener.heard[-1][1] if listener.heard else None
                    return found is not None and found.units_bad == 1 and found.commit_latency_ms is not None

                await reaches(settled, "a status with the dead unit")
                topic, found, retained, qos = listener.heard[-1]
                assert topic == topics.status("acme", "gw1")
                assert (found.tenant, found.agent, found.software) == ("acme", "gw1", SOFTWARE)
                assert (found.units_good, found.units_bad) == (2, 1)
                assert (retained, qos) == (False, 0)
                assert found.buffer is not None
                assert found.buffer.size > 0
                assert found.buffer.oldest_s < 60
                assert abs(found.at_us - time.time_ns() // 1000) < 60_000_000
                assert 0 <= found.uptime_s < 60
                assert found.reconnects == 0
                before = len(listener.heard)
                await reaches(lambda: len(listener.heard) >= before + 3, "more of them")
                code, log = await asyncio.to_thread(agent.stop)
                assert code == 0, log
                # What stands for ingest here would fail at a topic that it does not know.
                assert store.reading_count() > 0
    finally:
        listener.close()


# The watchdog


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """What systemd is for a service; gives what it has heard since the last call."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "notify"))
        found.setblocking(False)

        def heard() -> list[str]:
            said = []
            while True:
                try:
                    said.append(found.recv(1000).decode())
                except BlockingIOError:
                    return said

        yield heard


async def goes_quiet(heard: Callable[[], list[str]]) -> None:
    """Wait until the watchdog has not been fed for longer than its time."""
    fed_at = time.monotonic()
    deadline = fed_at + 60
    while time.monotonic() - fed_at < 0.8:
        assert time.monotonic() < deadline, "the watchdog is still fed"
        if "WATCHDOG=1" in heard():
            fed_at = time.monotonic()
        await asyncio.sleep(0.05)


async def test_a_broker_that_is_missing_leaves_the_watchdog_its_food_and_a_buffer_that_cannot_be_written_does_not(
    tmp_path: Path, run: Callable[..., Agent], manager: Callable[[], list[str]]
) -> None:
    async with Responder(one_dead) as meter:
        notify = str(tmp_path / "notify")
        agent = run(str(write(tmp_path, 1, meter.port)), "--drain-s", "0", NOTIFY_SOCKET=notify, WATCHDOG_USEC="400000")
        await reaches(lambda: "WATCHDOG=1" in manager(), "progress")
        other = sqlite3.connect(tmp_path / "b.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            await goes_quiet(manager)
        finally:
            other.execute("ROLLBACK")
            other.close()
        await reaches(lambda: "WATCHDOG=1" in manager(), "progress again")
        code, log = await asyncio.to_thread(agent.stop)
        assert code == 0, log
        assert "the watchdog is not fed any more: a batch has waited for the disk for " in log


async def test_a_publisher_that_hangs_stops_the_watchdogs_food(
    tmp_path: Path, run: Callable[..., Agent], manager: Callable[[], list[str]]
) -> None:
    # A port that takes connections and says nothing: the greeting of TLS is waited for.
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        async with Responder(one_dead) as meter:
            port = black_hole.getsockname()[1]
            path = write(tmp_path, port, meter.port, mqtt_extra="[mqtt.tls]")
            environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
            agent = run(str(path), "--drain-s", "0", **environment)
            await reaches(lambda: "READY=1" in manager(), "the start")
            await goes_quiet(manager)
            # As systemd would.
            _, log = await asyncio.to_thread(agent.stop, signal.SIGKILL)
            assert "the watchdog is not fed any more: the publisher has hung for " in log


# A stop at any time


def handles(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", text)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_comes_while_the_agent_is_loading_ends_it_in_order(
    tmp_path: Path, run: Callable[..., Agent], number: int
) -> None:
    # A configuration that never comes keeps it from getting any further.
    os.mkfifo(tmp_path / "agent.toml")
    agent = run(str(tmp_path / "agent.toml"))
    wait_until(lambda: handles(agent.process.pid, signal.SIGTERM), "a handler", every_s=0.002)
    code, log = agent.stop(number)
    assert (code, log) == (0, "")


def test_handlers_are_there_before_the_rest_of_the_agent_is_loaded() -> None:
    lines = (Path(__file__).parents[3] / "edge_agent" / "__main__.py").read_text(encoding="utf-8").splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports[1].startswith("from edge_agent.operation import early")


async def test_a_stop_that_comes_while_the_buffer_is_opened_ends_it_in_order(
    tmp_path: Path, run: Callable[..., Agent]
) -> None:
    async with Responder(one_dead) as meter:
        path = write(tmp_path, 1, meter.port)
        first = run(str(path), "--drain-s", "0")
        await reaches(lambda: len(meter.asked) > 3, "polls")
        await asyncio.to_thread(first.stop)
        other = sqlite3.connect(tmp_path / "b.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        second = run(str(path), "--drain-s", "0")

        def opening() -> bool:
            descriptors = Path(f"/proc/{second.process.pid}/fd")
            return any(str(link.readlink()).endswith("b.sqlite") for link in descriptors.iterdir())

        await reaches(opening, "the buffer being opened")
        second.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        other.execute("ROLLBACK")
        other.close()
        _, log = await asyncio.to_thread(second.process.communicate, None, 60)
        assert second.process.returncode == 0, log
