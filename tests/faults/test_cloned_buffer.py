"""Two agents that run from copies of one buffer lose nothing and count nothing twice."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from deploy.local.broker import Broker
from deploy.local.tally import readings_sent, tally
from tests.support.observer import Observer
from tests.support.plants import cement_plant
from tests.support.processes import held
from tests.support.waiting import wait_until

SPEED = 600
BUFFER = "cement-gw1.buffer"


@pytest.mark.timeout(300)
def test_an_agent_from_a_copy_of_the_buffer_loses_and_doubles_nothing(
    timescale_database_dsn: str, mosquitto: Broker, tmp_path: Path
) -> None:
    clone_dir = tmp_path / "clone"
    clone_dir.mkdir()
    with (
        cement_plant(tmp_path / "plant", timescale_database_dsn, mosquitto, SPEED) as stack,
        Observer(mosquitto) as observer,
    ):
        wait_until(lambda: observer.messages() > 10, "the agent publishes")
        with held(stack.ingest):
            before = observer.messages()
            wait_until(lambda: observer.messages() >= before + 10, "messages pile up uncommitted")
            stack.agent.kill()
            for part in stack.setting.directory.glob(f"{BUFFER}*"):
                if not part.name.endswith(".lock"):
                    shutil.copy2(part, clone_dir)
            shared = _appended(clone_dir / BUFFER)
            redelivered = observer.redelivered()
            stack.start_agent()
            clone = stack.agent_process(clone_dir).start()
            wait_until(lambda: observer.redelivered() > redelivered, "both send what the copy holds")
        try:
            after = observer.messages()
            wait_until(lambda: observer.messages() > after + 60, "both go on")
            stack.require()
            clone.require()
        finally:
            clone.stop(timeout_s=90)
        stack.agent.stop(timeout_s=90)
        stack.wait_until_settled()

        sent = readings_sent(stack.agent_report_file) + readings_sent(clone_dir / "agent-report.json") - shared
        counted = tally(timescale_database_dsn, sent)
        assert shared > 0
        assert counted.lost == 0, str(counted)
        assert counted.uneven_batches == 0, str(counted)
        assert _dead_letters(timescale_database_dsn) == []
        # Both read the same OPC-UA values with the same source times; a query shows each of them once.
        span = {"from": "2022-06-13T00:00:00Z", "to": "2022-06-15T00:00:00Z"}
        page = stack.get("/v1/readings", point="cement/dcs/clinker_total", limit=5000, **span)
        times = page["columns"]["at"]
        assert len(times) == len(set(times)) > 0


def _appended(buffer: Path) -> int:
    """Readings that a buffer file says were committed to it."""
    with closing(sqlite3.connect(buffer)) as database:
        row = database.execute("SELECT value FROM meta WHERE name = 'readings_appended'").fetchone()
    return int(row[0])


def _dead_letters(dsn: str) -> list[tuple[str, str]]:
    with psycopg.connect(dsn) as connection:
        return [
            (kind, reason) for kind, reason in connection.execute("SELECT kind, reason FROM dead_letter").fetchall()
        ]
