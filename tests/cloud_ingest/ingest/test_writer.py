from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from cloud_ingest.ingest.config import IngestConfig
from cloud_ingest.ingest.inbox import Inbox
from cloud_ingest.ingest.write import Effects, Flush
from cloud_ingest.ingest.writer import Writer
from cloud_ingest.signals import Signals
from cloud_ingest.store.editions import Edition, detect
from cloud_ingest.store.pool import Connection
from tests.support.fake_agent import FakeAgent, Sent
from tests.support.waiting import wait_until

Connect = Callable[[], tuple[Connection, Flush]]


class Bench:
    """A writer in a thread, and what it acknowledged."""

    def __init__(self, connect: Connect, config: IngestConfig | None = None) -> None:
        self.signals = Signals()
        self.inbox = Inbox(10_000)
        self.acknowledged: list[int] = []
        self.inbox.acknowledge = lambda delivery: self.acknowledged.append(delivery.mid)
        self.effects: list[Effects] = []
        self.abandon = threading.Event()
        self.writer = Writer(
            connect, self.inbox, config or IngestConfig(), self.signals, self.effects.append, self.abandon
        )
        self.thread = threading.Thread(target=self.writer.run)
        self._mid = 0

    def put(self, *messages: Sent) -> None:
        for message in messages:
            self._mid += 1
            assert self.inbox.put(message.topic, message.payload, self._mid, 1)

    def finish(self) -> None:
        self.inbox.close()
        if not self.thread.is_alive():
            self.thread.start()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def writing(connect: Callable[[], Connection]) -> Connect:
    def make() -> tuple[Connection, Flush]:
        conn = connect()
        return conn, Flush(conn, 7, 600.0, Signals())

    return make


def count(conn: Connection) -> int:
    row = conn.execute("SELECT count(*) FROM reading_float").fetchone()
    assert row is not None
    return int(row[0])


def test_a_flush_has_no_more_readings_than_told(conn: Connection, writing: Connect) -> None:
    agent = FakeAgent()
    bench = Bench(writing, IngestConfig(flush_readings=10))
    bench.put(agent.birth(), *(agent.floats(1.0, 2.0, 3.0, 4.0) for _ in range(20)))
    bench.finish()
    assert count(conn) == 80
    assert len(bench.effects) == 7
    assert bench.acknowledged == list(range(1, 22))


def test_few_messages_do_not_wait_for_more_than_the_flush_time(conn: Connection, writing: Connect) -> None:
    agent = FakeAgent()
    bench = Bench(writing, IngestConfig(flush_s=0.05))
    bench.thread.start()
    bench.put(agent.birth(), agent.floats(1.0))
    wait_until(lambda: bench.acknowledged == [1, 2], "both are acknowledged")
    bench.finish()


def test_while_the_database_is_away_nothing_is_acknowledged_and_nothing_lost(
    conn: Connection, writing: Connect
) -> None:
    agent = FakeAgent()
    away = threading.Event()
    away.set()

    def connect() -> tuple[Connection, Flush]:
        if away.is_set():
            raise psycopg.OperationalError("connection refused")
        return writing()

    bench = Bench(connect)
    bench.put(agent.birth(), *(agent.floats(float(n)) for n in range(50)))
    bench.thread.start()
    wait_until(lambda: bench.signals.value("retries", "OperationalError") >= 2, "it tries again")
    assert bench.acknowledged == []
    away.clear()
    wait_until(lambda: len(bench.acknowledged) == 51, "all are acknowledged")
    bench.finish()
    assert count(conn) == 50


def test_at_the_end_it_gives_up_a_flush_that_can_not_be_written(writing: Connect) -> None:
    agent = FakeAgent()

    def connect() -> tuple[Connection, Flush]:
        raise psycopg.OperationalError("connection refused")

    bench = Bench(connect)
    bench.put(agent.birth())
    bench.thread.start()
    bench.inbox.close()
    bench.abandon.set()
    bench.thread.join(60)
    assert not bench.thread.is_alive()
    assert bench.acknowledged == []


def test_a_partition_that_somebody_removed_is_made_again(conn: Connection, writing: Connect) -> None:
    if detect(conn) is not Edition.PLAIN:
        pytest.skip("hypertables make their chunks themselves")
    agent = FakeAgent()
    bench = Bench(writing)
    bench.thread.start()
    bench.put(agent.birth(), agent.floats(1.0))
    wait_until(lambda: len(bench.acknowledged) == 2, "the first is stored")
    name = conn.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'reading_float'::regclass"
    ).fetchone()
    assert name is not None
    conn.execute(f"DROP TABLE {name[0]}".encode())
    bench.put(agent.floats(2.0))
    wait_until(lambda: len(bench.acknowledged) == 3, "the second is stored")
    bench.finish()
    assert conn.execute("SELECT value FROM reading_float").fetchall() == [(2.0,)]
    assert conn.execute("SELECT count(*) FROM dead_letter").fetchone() == (0,)


def test_poison_is_found_wherever_it_stands(conn: Connection, writing: Connect) -> None:
    conn.execute("ALTER TABLE reading_float ADD CONSTRAINT poison CHECK (value < 1000)")
    agent = FakeAgent()
    bench = Bench(writing)
    values = [float(n) for n in range(20)]
    values[0] = values[7] = values[8] = values[19] = 1000.0
    bench.put(agent.birth(), *(agent.floats(value) for value in values))
    bench.finish()
    assert count(conn) == 16
    assert bench.acknowledged == list(range(1, 22))
    assert conn.execute("SELECT kind, count(*) FROM dead_letter GROUP BY kind").fetchall() == [("poison", 4)]
    assert conn.execute("SELECT count(*) FROM ledger WHERE status = 2").fetchone() == (4,)
