from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from cloud_ingest.ingest.write import Flush
from cloud_ingest.signals import Signals
from cloud_ingest.store import feed, quarantine
from cloud_ingest.store.actions import Operator
from cloud_ingest.store.partitions import Partitions
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.quarantine import Fits
from protocols.quality import Quality
from protocols.reading import Columns
from tests.support.fake_agent import JUNE_US, SECOND_US, FakeAgent, Sent, point
from tests.support.small_plant import HOUR_US, MIDNIGHT_US, SmallPlant, steady

ALICE = Operator("alice", "the clock ran ahead")
DAY_S = 86_400


def now_us() -> int:
    return time.time_ns() // 1000


def store(conn: Connection, *sent: Sent) -> None:
    Flush(conn, 7, 600.0, Signals()).store([message.parsed() for message in sent])


def ahead(agent: FakeAgent, *values: float | None, days: int = 1) -> Sent:
    """A batch from a clock that runs ahead."""
    return agent.floats(*values, first_s=(now_us() - JUNE_US) // SECOND_US + days * DAY_S)


def release(conn: Connection, latest_us: int, shift_us: int = 0, fits: Fits = quarantine.HELD) -> int:
    idents = quarantine.idents(conn, fits)
    return quarantine.release(conn, Partitions(conn, 7), idents, latest_us, ALICE, shift_us)


def rows(conn: Connection, table: str = "reading_float") -> list[Any]:
    return conn.execute(f"SELECT value, quality FROM {table} ORDER BY at".encode()).fetchall()


def states(conn: Connection) -> list[str]:
    return [row[0] for row in conn.execute("SELECT state FROM quarantine ORDER BY id").fetchall()]


def released_in_feed(conn: Connection) -> list[feed.Change]:
    feed.follow(conn, "test")
    with conn.transaction():
        return [change for change in feed.read(conn, "test") if change.cause == "quarantine release"]


def test_a_reading_is_released_once_when_its_time_is_no_longer_in_the_future(conn: Connection) -> None:
    agent = FakeAgent()
    store(conn, agent.birth(), ahead(agent, 1.5, None, 2.5))
    assert release(conn, now_us()) == 0
    assert rows(conn) == []
    assert states(conn) == ["held"] * 3
    assert release(conn, now_us() + 2 * DAY_S * SECOND_US) == 3
    clock = int(Quality.UNCERTAIN_CLOCK)
    assert rows(conn) == [(1.5, clock), (None, 130), (2.5, clock)]
    assert states(conn) == ["released"] * 3
    everything = [found.id for found in quarantine.newest(conn, 10, None, Fits(state="released"))]
    again = quarantine.release(conn, Partitions(conn, 7), everything, now_us() + 2 * DAY_S * SECOND_US, ALICE)
    assert again == 0
    assert len(rows(conn)) == 3
    (change,) = released_in_feed(conn)
    ledger = conn.execute("SELECT batch_id FROM ledger WHERE seq = 2").fetchone()
    assert ledger == (change.batch_id,)
    assert change.last_us - change.first_us == 2 * SECOND_US
    actions = conn.execute("SELECT id, who, what, why, detail FROM operator_action").fetchall()
    assert [row[1:] for row in actions] == [
        ("alice", "quarantine release", "the clock ran ahead", {"readings": 3, "shift_us": 0})
    ]
    assert conn.execute("SELECT DISTINCT action_id FROM quarantine").fetchall() == [(actions[0][0],)]


def test_a_shift_puts_every_value_type_where_it_belongs(conn: Connection) -> None:
    agent = FakeAgent(points=[point("f"), point("i", "int"), point("b", "bool"), point("t", "text")])
    columns = {
        "float": Columns([0, 0, 0], [0, 1, 2], [0.1, 1e300, 1e-300], [0, 0, 70]),
        "int": Columns([1, 1], [0, 1], [2**63 - 1, None], [0, 131]),
        "bool": Columns([2, 2, 2], [0, 1, 2], [True, False, None], [0, 0, 131]),
        "text": Columns([3, 3, 3], [0, 1, 2], ["ü\n\t\\", "", None], [0, 0, 131]),
    }
    store(conn, agent.birth(), agent.batch(columns, base_us=1_000_000))  # type: ignore[arg-type]
    store(conn, agent.batch({"float": Columns([0, 0], [0, 1], [9.0, 8.0])}, base_us=-(10**17)))
    assert release(conn, now_us()) == 0
    assert release(conn, now_us(), shift_us=JUNE_US) == 11
    assert rows(conn) == [(0.1, 1), (1e300, 1), (1e-300, 70)]
    assert rows(conn, "reading_int") == [(2**63 - 1, 1), (None, 131)]
    assert rows(conn, "reading_bool") == [(True, 1), (False, 1), (None, 131)]
    assert rows(conn, "reading_text") == [("ü\n\t\\", 1), ("", 1), (None, 131)]
    at = "SELECT (extract(epoch FROM min(at)) * 1000000)::bigint FROM reading_text"
    assert conn.execute(at.encode()).fetchone() == (JUNE_US + 1_000_000,)
    assert states(conn).count("held") == 2


def test_what_fits_is_released_and_nothing_else(conn: Connection) -> None:
    first, second = FakeAgent(), FakeAgent(name="gw2", site="mine")
    store(conn, first.birth(), second.birth(), ahead(first, 1.0), ahead(second, 2.0))
    energy2 = first.floats(3.0, index=1, first_s=-JUNE_US / SECOND_US)
    store(conn, energy2)
    found = quarantine.newest(conn, 10)
    assert [(each.agent, each.point, each.value) for each in found] == [
        ("gw1", "plant/meter/energy2", "3.0"),
        ("gw2", "mine/meter/energy", "2.0"),
        ("gw1", "plant/meter/energy", "1.0"),
    ]
    assert quarantine.newest(conn, 10, below=found[1].id) == found[2:]
    assert quarantine.find(conn, found[0].id) == found[0]
    assert quarantine.find(conn, found[0].id + 1) is None
    latest_us = now_us() + 2 * DAY_S * SECOND_US
    assert release(conn, latest_us, fits=Fits(tenant="rival")) == 0
    assert release(conn, latest_us, fits=Fits(agent="gw2")) == 1
    assert release(conn, latest_us, fits=Fits(tenant="acme", point="plant/meter/energy2")) == 0
    assert release(conn, latest_us, JUNE_US, fits=Fits(tenant="acme", point="plant/meter/energy2")) == 1
    assert [value for value, _ in rows(conn)] == [3.0, 2.0]


def test_operators_at_once_release_each_reading_once(connect: Callable[[], Connection]) -> None:
    conn, agent = connect(), FakeAgent()
    store(conn, agent.birth(), *(ahead(agent, *map(float, range(10)), days=n) for n in range(1, 9)))
    counts: list[int] = []
    barrier = threading.Barrier(3)
    idents = quarantine.idents(conn)

    def work(mine: Connection, order: list[int]) -> None:
        partitions = Partitions(mine, 7)
        barrier.wait(30)
        for start in range(0, len(order), 7):
            part = order[start : start + 7]
            counts.append(quarantine.release(mine, partitions, part, now_us() + 99 * DAY_S * SECOND_US, ALICE))

    orders = (idents, idents[::-1], idents[40:] + idents[:40])
    threads = [threading.Thread(target=work, args=(connect(), order)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 80
    assert len(rows(conn)) == 80


def test_a_failure_before_the_commit_leaves_everything_held(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = FakeAgent()
    store(conn, agent.birth(), ahead(agent, 1.0))
    monkeypatch.setattr("cloud_ingest.store.quarantine.feed.append_all", lambda conn, rows: conn.execute("SELECT 1/0"))
    with pytest.raises(psycopg.DataError):
        release(conn, now_us() + 2 * DAY_S * SECOND_US)
    assert states(conn) == ["held"]
    assert rows(conn) == []
    assert conn.execute("SELECT FROM operator_action").fetchall() == []


def test_a_discarded_reading_stays_as_it_came_and_is_never_released(conn: Connection) -> None:
    agent = FakeAgent()
    store(conn, agent.birth(), ahead(agent, 1.0, 2.0))
    first, second = quarantine.idents(conn)
    assert quarantine.discard(conn, [first, 999], Operator("bob", "nonsense")) == 1
    assert quarantine.discard(conn, [first], Operator("bob", "nonsense")) == 0
    assert quarantine.release(conn, Partitions(conn, 7), [first], now_us() + 2 * DAY_S * SECOND_US, ALICE) == 0
    assert quarantine.idents(conn) == [second]
    kept = quarantine.find(conn, first)
    assert kept is not None
    assert (kept.state, kept.value) == ("discarded", "1.0")
    actions = conn.execute("SELECT who, what, why, detail FROM operator_action").fetchall()
    assert actions == [("bob", "quarantine discard", "nonsense", {"readings": 1})]
    assert released_in_feed(conn) == []


def test_a_release_is_settled_like_late_readings(connect: Callable[[], Connection]) -> None:
    plant = SmallPlant(connect)
    whole = steady(60.0, -HOUR_US, 3 * HOUR_US)
    plant.send("pumps/volume", whole[:70] + whole[100:])
    plant.send("pumps/volume", [(at_us - MIDNIGHT_US, value) for at_us, value in whole[70:100]])
    plant.settle()
    before = plant.account("pumping", "water")
    assert before.coverage < 0.6
    plant.settle()
    assert plant.account("pumping", "water") == before
    assert release(plant.conn, now_us(), shift_us=MIDNIGHT_US) == 30
    plant.settle()
    after = plant.account("pumping", "water")
    assert (after.coverage, after.use) == (1.0, 60.0)
    assert plant.rounds.run(plant.conn) is False
