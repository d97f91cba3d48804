"""After a restore of the database agents send again what it lacks, once an operator has said so."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from deploy.local.broker import Broker
from deploy.local.stack import Stack
from deploy.local.tally import readings_sent, tally
from tests.support.observer import Observer
from tests.support.small_pack import small_stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.services

SPEED = 400


@pytest.mark.timeout(200)
def test_what_a_restored_database_lacks_comes_again_and_is_stored_once(
    plain_database_dsn: str, mosquitto: Broker, tmp_path: Path
) -> None:
    dsn = plain_database_dsn
    name = str(conninfo_to_dict(dsn)["dbname"])
    backup = f"{name}_backup"
    with small_stack(tmp_path / "plant", dsn, mosquitto, SPEED) as stack, Observer(mosquitto) as observer:
        _wait_for_more(observer, 5)
        stack.ingest.stop()
        _copy(dsn, name, backup)
        try:
            stack.start_ingest()
            _wait_for_more(observer, 5)
            wait_until(lambda: _batches(dsn) > _batches(_of(dsn, backup)) + 5, "more is stored than in the backup")
            stack.ingest.stop()
            _copy(dsn, backup, name)
        finally:
            _drop(dsn, backup)
        lacking = _batches(dsn)
        stack.start_ingest()
        # The agent was told of more than this database has; that it was restored nobody has said yet.
        _wait_for_more(observer, 5)
        again = observer.redelivered()
        _tell(stack)
        wait_until(lambda: observer.redelivered() > again, "the agent sends again")
        stack.require()
        stack.agent.stop(timeout_s=60)
        stack.wait_until_settled()
        counted = tally(dsn, readings_sent(stack.agent_report_file))
    assert counted.clean, str(counted)
    assert (counted.declared_lost, counted.dead_letters, counted.parked) == (0, 0, 0), str(counted)
    assert _batches(dsn) > lacking


def _wait_for_more(observer: Observer, count: int) -> None:
    before = observer.messages()
    wait_until(lambda: observer.messages() >= before + count, "the agent publishes")


def _tell(stack: Stack) -> None:
    """What an operator does after a restore."""
    child = stack._child("restored", "cloud_ingest", ["restored", str(stack.setting.pack / "ingest.toml")]).start()
    wait_until(lambda: not child.running(), "the operator's command ends")
    assert child.stop() == 0, child.log_tail()


def _of(dsn: str, name: str) -> str:
    return make_conninfo(dsn, dbname=name)


def _batches(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT count(*) FROM ledger").fetchone()
    assert row is not None
    return int(row[0])


def _copy(dsn: str, source: str, target: str) -> None:
    """Make `target` what `source` is now; nobody is connected to `source`."""
    _drop(dsn, target)
    with psycopg.connect(_of(dsn, "postgres"), autocommit=True) as conn:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        conn.execute(create.format(sql.Identifier(target), sql.Identifier(source)))


def _drop(dsn: str, name: str) -> None:
    with psycopg.connect(_of(dsn, "postgres"), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
