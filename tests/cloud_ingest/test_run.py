"""The program as it is run: its commands, its start, its end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from deploy.local.broker import Broker
from tests.support.fake_agent import FakeAgent, Sent
from tests.support.publisher import Publisher
from tests.support.waiting import wait_until

pytestmark = pytest.mark.services


def write_config(directory: Path, dsn: str, broker: Broker | None = None, roles: str = '["ingest"]') -> Path:
    file = directory / "ingest.toml"
    text = f"roles = {roles}\n[store]\ndsn = '''{dsn}'''\n"
    if broker is not None:
        text += f'[mqtt]\nhost = "{broker.host}"\nport = {broker.port}\nversion = {broker.mqtt_version}\n'
    file.write_text(text + "[ingest]\nsweep_s = 0.5\n[api]\nport = 0\n")
    return file


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cloud_ingest", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def process(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (config.parent / "ingest.log").open("ab") as log:
        running = subprocess.Popen([sys.executable, "-m", "cloud_ingest", "run", str(config)], stdout=log, stderr=log)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()


def stored(dsn: str) -> list[float]:
    with psycopg.connect(dsn) as conn:
        if conn.execute("SELECT to_regclass('reading_float')").fetchone() == (None,):
            return []
        return [row[0] for row in conn.execute("SELECT value FROM reading_float ORDER BY value").fetchall()]


def test_print_config_passes_check_config(tmp_path: Path) -> None:
    printed = command("print-config")
    assert printed.returncode == 0
    file = tmp_path / "ingest.toml"
    file.write_text(printed.stdout)
    checked = command("check-config", file)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_wrong_configuration_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "ingest.toml"
    file.write_text("[store]\ndns = 'x'\n")
    for name in ("run", "migrate", "status", "check-config"):
        done = command(name, file)
        assert done.returncode == 2
        assert "store.dns: unknown key" in done.stderr
    assert command("run").returncode == 2
    assert command("--version").returncode == 0


def test_an_operator_can_look_at_everything(tmp_path: Path, plain_database_dsn: str) -> None:
    file = write_config(tmp_path, plain_database_dsn, roles='["settle"]')
    early = command("status", file)
    assert early.returncode == 1
    assert "run: cloud-ingest migrate" in early.stderr
    assert "0001_store" in command("migrate", file).stdout
    assert command("migrate", file).stdout == "nothing to do\n"
    before = json.loads(command("status", file).stdout)
    assert before["edition"] == "plain"
    assert before["ledger"] == {"stored": 0, "parked": 0, "dead": 0, "readings": 0}
    assert command("restored", file).returncode == 0
    after = json.loads(command("status", file).stdout)
    assert after["incarnation"]["drawn_us"] > before["incarnation"]["drawn_us"]
    with psycopg.connect(plain_database_dsn) as conn:
        conn.execute(
            "INSERT INTO dead_letter (topic, kind, reason, digest, payload) "
            "VALUES ('t', 'topic', 'why', 'd', '\\xff41')"
        )
    (line,) = command("dlq", "list", file).stdout.splitlines()
    assert json.loads(line)["reason"] == "why"
    shown = json.loads(command("dlq", "show", file, str(json.loads(line)["id"])).stdout)
    assert shown["payload"] == "\\xffA"
    assert command("dlq", "show", file, "999").returncode == 1


def test_an_unreachable_database_is_a_failure_of_a_command(tmp_path: Path) -> None:
    file = write_config(tmp_path, "postgresql://postgres@127.0.0.1:1/x", roles='["settle"]')
    done = command("status", file)
    assert done.returncode == 1
    assert "cloud-ingest status:" in done.stderr


def test_it_waits_for_a_database_that_comes_later(tmp_path: Path, plain_database_dsn: str, mosquitto: Broker) -> None:
    away = psycopg.conninfo.make_conninfo(plain_database_dsn, dbname="comes_later")
    with psycopg.connect(plain_database_dsn, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS comes_later")
        config = write_config(tmp_path, away, mosquitto)
        with process(config) as running:
            log = tmp_path / "ingest.log"
            wait_until(lambda: "trying again" in log.read_text(), "it says that the database is not available")
            assert running.poll() is None
            admin.execute("CREATE DATABASE comes_later")
            agent = FakeAgent()
            with Publisher(mosquitto) as publisher:
                wait_until(lambda: "running: ingest" in log.read_text(), "it runs")
                wait_until(lambda: "connected to" in log.read_text(), "it is connected")
                publisher.send(agent.birth(), agent.floats(1.0))
                publisher.wait_covered(agent)
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 0
        admin.execute("DROP DATABASE comes_later WITH (FORCE)")


def test_killed_again_and_again_it_loses_nothing_and_stores_nothing_twice(
    tmp_path: Path, database_dsn: str, mosquitto: Broker
) -> None:
    config = write_config(tmp_path, database_dsn, mosquitto)
    agent = FakeAgent()
    sent: list[Sent] = [agent.birth()]
    log = tmp_path / "ingest.log"
    with Publisher(mosquitto) as publisher:
        for round_ in range(4):
            with process(config) as running:
                wait_until(lambda n=round_: log.read_text().count("connected to") > n, "it is connected")  # type: ignore[misc]
                batches = [agent.floats(float(round_ * 100 + n)) for n in range(100)]
                publisher.send(*sent[:1], *batches)
                sent += batches
                wait_until(lambda n=round_: len(stored(database_dsn)) > n * 100, "some of it is stored")  # type: ignore[misc]
                running.kill()
                running.wait()
        with process(config) as running:
            wait_until(lambda: log.read_text().count("connected to") == 5, "it is connected once more")
            publisher.wait_covered(agent)
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 0
    assert stored(database_dsn) == [float(n) for n in range(400)]


def test_all_roles_run_in_one_process_and_end_in_order(
    tmp_path: Path, plain_database_dsn: str, mosquitto: Broker
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = write_config(tmp_path, plain_database_dsn, mosquitto, '["ingest", "settle", "api"]')
    config.write_text(config.read_text().replace("port = 0\n", f"port = {port}\n"))

    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    agent = FakeAgent()
    with process(config) as running, Publisher(mosquitto) as publisher:
        wait_until(ready, "the API says it is ready")
        publisher.send(agent.birth(), agent.floats(1.0))
        publisher.wait_covered(agent)
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert "metercarbon_readings_stored_total 1\n" in metrics
        running.send_signal(signal.SIGTERM)
        assert running.wait(90) == 0
    assert stored(plain_database_dsn) == [1.0]
