from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import orjson
import psycopg
import pytest

from cloud_ingest.errors import ContentionError
from cloud_ingest.ingest.write import Effects, Flush
from cloud_ingest.signals import Signals
from cloud_ingest.store import feed, incarnation, letters
from cloud_ingest.store.pool import Connection
from protocols.reading import Columns
from tests.support.fake_agent import JUNE_US, SECOND_US, FakeAgent, Sent, point


def one(conn: Connection, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def flush_of(conn: Connection, signals: Signals | None = None) -> Flush:
    return Flush(conn, 7, 600.0, signals or Signals())


def store(flush: Flush, *sent: Sent) -> Effects:
    return flush.store([message.parsed() for message in sent])


def kinds(conn: Connection) -> list[str]:
    return [letter.kind for letter in reversed(letters.newest(conn, 100))]


def changes(conn: Connection) -> list[tuple[str, tuple[int, ...]]]:
    feed.follow(conn, "test")
    with conn.transaction():
        return [(change.cause, change.points) for change in feed.read(conn, "test")]


def test_a_birth_and_its_data_in_one_flush_are_stored(conn: Connection) -> None:
    agent, signals = FakeAgent(), Signals()
    effects = store(flush_of(conn, signals), agent.birth(), agent.floats(1.5, None, 2.5))
    assert effects.births
    assert {epoch for _, epoch in effects.touched} == {agent.epoch}
    rows = conn.execute("SELECT value, quality FROM reading_float ORDER BY at").fetchall()
    assert rows == [(1.5, 0), (None, 130), (2.5, 0)]
    batch = conn.execute("SELECT kind, status, readings, first_at, last_at FROM ledger WHERE seq = 2").fetchone()
    assert batch is not None
    assert batch[:3] == (0, 0, 3)
    assert (batch[4] - batch[3]).total_seconds() == 2
    assert len(changes(conn)) == 1
    assert signals.value("readings_stored") == 3
    assert signals.value("batches", "new") == 2


def test_every_value_type_lands_in_its_table(conn: Connection) -> None:
    agent = FakeAgent(points=[point("f"), point("i", "int"), point("b", "bool"), point("t", "text")])
    batch = agent.batch(
        {
            "float": Columns([0], [0], [0.1]),
            "int": Columns([1, 1], [0, 1], [2**63 - 1, None], [0, 131]),
            "bool": Columns([2, 2], [0, 1], [True, None], [0, 131]),
            "text": Columns([3, 3], [0, 1], ["ü\n\t\\", None], [0, 131]),
        }
    )
    store(flush_of(conn), agent.birth(), batch)
    assert one(conn, "SELECT array_agg(value) FROM reading_float") == [0.1]
    assert one(conn, "SELECT array_agg(value ORDER BY at) FROM reading_int") == [2**63 - 1, None]
    assert one(conn, "SELECT array_agg(value ORDER BY at) FROM reading_bool") == [True, None]
    assert one(conn, "SELECT array_agg(value ORDER BY at) FROM reading_text") == ["ü\n\t\\", None]


def test_a_redelivery_stores_nothing_and_touches_its_epoch_again(conn: Connection) -> None:
    agent, signals = FakeAgent(), Signals()
    flush = flush_of(conn, signals)
    birth, batch = agent.birth(), agent.floats(1.0, 2.0)
    store(flush, birth, batch, batch)
    effects = store(flush, batch, birth)
    assert len(effects.touched) == 1
    assert one(conn, "SELECT count(*) FROM reading_float") == 2
    assert len(changes(conn)) == 1
    assert signals.value("batches", "duplicate") == 3
    assert kinds(conn) == []


def test_the_same_key_with_other_content_is_dead_lettered_and_disputed(conn: Connection) -> None:
    agent, signals = FakeAgent(), Signals()
    flush = flush_of(conn, signals)
    store(flush, agent.birth(), agent.floats(1.0))
    store(flush, agent.floats(99.0, seq=2))
    assert one(conn, "SELECT array_agg(value) FROM reading_float") == [1.0]
    assert kinds(conn) == ["conflict"]
    assert str(one(conn, "SELECT disputed FROM ledger_epoch")) == "{[2, 3)}"
    assert signals.value("dead_letters", "conflict") == 1


def test_data_before_its_birth_is_parked_and_replayed_once(conn: Connection, connect: Callable[[], Connection]) -> None:
    from cloud_ingest.ingest.config import IngestConfig
    from cloud_ingest.ingest.replay import Replayer

    agent, signals = FakeAgent(), Signals()
    flush = flush_of(conn, signals)
    birth = agent.birth()
    batches = [agent.floats(float(n), first_s=n) for n in range(5)]
    store(flush, *batches)
    assert one(conn, "SELECT count(*) FROM parked") == 5
    assert one(conn, "SELECT array_agg(DISTINCT status) FROM ledger") == [1]
    assert one(conn, "SELECT count(*) FROM reading_float") == 0
    assert signals.value("parked") == 5
    store(flush, birth)

    touched: list[tuple[int, str]] = []

    def sweep(mine: Connection) -> None:
        replayer = Replayer(lambda: (mine, flush_of(mine)), IngestConfig(), signals, touched.extend)
        replayer.sweep(mine, flush_of(mine, signals))

    threads = [threading.Thread(target=sweep, args=(connect(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one(conn, "SELECT count(*) FROM parked") == 0
    assert one(conn, "SELECT array_agg(value ORDER BY at) FROM reading_float") == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert one(conn, "SELECT array_agg(DISTINCT status) FROM ledger") == [0]
    assert {cause for cause, _ in changes(conn)} == {"replay"}
    assert signals.value("replayed") == 5
    assert {epoch for _, epoch in touched} == {agent.epoch}
    store(flush, *batches)
    assert one(conn, "SELECT count(*) FROM reading_float") == 5


def test_a_parked_batch_that_does_not_fit_its_schema_becomes_a_dead_letter(conn: Connection) -> None:
    from cloud_ingest.ingest.config import IngestConfig
    from cloud_ingest.ingest.replay import Replayer

    agent, signals = FakeAgent(), Signals()
    flush = flush_of(conn, signals)
    store(flush, agent.floats(1.0, index=17), agent.floats(2.0))
    store(flush, agent.birth())
    Replayer(lambda: (conn, flush), IngestConfig(), signals, lambda epochs: None).sweep(conn, flush)
    assert kinds(conn) == ["invalid"]
    assert one(conn, "SELECT array_agg(status ORDER BY seq) FROM ledger") == [2, 0, 0]
    assert one(conn, "SELECT count(*) FROM parked") == 0


def test_what_can_not_be_decoded_is_dead_lettered_and_the_next_batch_is_stored(conn: Connection) -> None:
    agent, signals = FakeAgent(), Signals()
    flush = flush_of(conn, signals)
    bad = Sent(agent.topic(), b"\xff\x00 not JSON")
    good_key = agent.floats(5.0)
    broken = Sent(agent.topic(), orjson.dumps(orjson.loads(good_key.payload) | {"t0": None}))
    effects = store(flush, agent.birth(), bad, broken, agent.floats(1.0), Sent("metercarbon/1/x y/z/gap", b"?"))
    assert one(conn, "SELECT array_agg(value) FROM reading_float") == [1.0]
    assert sorted(kinds(conn)) == ["topic", "undecodable", "undecodable"]
    # The one whose identity could be read is in the ledger, so that its sender is answered.
    assert one(conn, "SELECT array_agg(seq) FROM ledger WHERE status = 2") == [1]
    assert {epoch for _, epoch in effects.touched} == {agent.epoch}
    store(flush, bad)
    assert one(conn, "SELECT max(times) FROM dead_letter") == 2
    assert signals.value("dead_letters", "undecodable") == 3


def test_a_payload_that_claims_another_agent_is_never_stored(conn: Connection) -> None:
    agent = FakeAgent("acme", "gw1")
    other = FakeAgent("acme", "gw2")
    flush = flush_of(conn)
    store(flush, agent.birth(), other.birth())
    store(flush, Sent(agent.topic(), other.floats(1.0).payload))
    assert one(conn, "SELECT count(*) FROM reading_float") == 0
    assert kinds(conn) == ["identity"]
    owner = "SELECT a.name FROM ledger l JOIN agent a USING (agent_id) WHERE l.status = 2"
    assert one(conn, owner) == "gw1"


def test_a_birth_that_redefines_a_point_is_refused_and_its_data_stay_parked(conn: Connection) -> None:
    agent, signals = FakeAgent(points=[point("a")]), Signals()
    flush = flush_of(conn, signals)
    store(flush, agent.birth())
    changed = FakeAgent(points=[point("a", "int")])
    effects = store(flush, changed.birth(), changed.batch({"int": Columns([0], [0], [1])}))
    assert not effects.births
    assert kinds(conn) == ["redefined"]
    assert one(conn, f"SELECT array_agg(status ORDER BY seq) FROM ledger WHERE epoch = '{changed.epoch}'") == [2, 1]
    assert one(conn, "SELECT count(*) FROM parked") == 1


def test_future_and_absurd_times_are_quarantined(conn: Connection) -> None:
    agent, signals = FakeAgent(points=[point("a"), point("t", "text")]), Signals()
    now_s = (time.time_ns() // 1000 - JUNE_US) / SECOND_US
    flush = flush_of(conn, signals)
    columns = Columns([1, 1], [0, 1], ["later", None], [0, 130])
    store(
        flush,
        agent.birth(),
        agent.floats(0.1, None, first_s=now_s + 3600),
        agent.floats(2.0, first_s=now_s + 300),
        agent.floats(3.0, first_s=-JUNE_US / SECOND_US),
        agent.batch({"text": columns}, base_us=-5),
    )
    assert one(conn, "SELECT array_agg(value) FROM reading_float") == [2.0]
    found = conn.execute("SELECT value, quality, reason, at_us FROM quarantine ORDER BY id").fetchall()
    assert sorted(row[:3] for row in found if row[0] is not None) == [
        ("0.1", 0, "in the future"),
        ("3.0", 0, "before the year 2000"),
        ("later", 0, "before the year 2000"),
    ]
    assert sorted(row[3] for row in found if row[0] is None)[0] == -4
    assert signals.value("quarantined") == 5
    assert len(changes(conn)) == 1
    assert conn.execute("SELECT readings, first_at FROM ledger WHERE seq = 2").fetchone() == (2, None)


def test_a_gap_record_says_which_points_lost_what_and_settles_the_seqs(conn: Connection) -> None:
    agent, signals = FakeAgent(), Signals()
    flush = flush_of(conn, signals)
    store(flush, agent.birth(), agent.floats(1.0))
    agent.seq += 3
    effects = store(flush, agent.gap({agent.epoch: ((3, 5),), "f" * 32: ((1, 9),)}, readings=1234))
    assert {epoch for _, epoch in effects.touched} == {agent.epoch, "f" * 32}
    gap = conn.execute("SELECT reason, points, readings, dropped FROM gap").fetchone()
    assert gap is not None
    assert gap[0] == "disk_full"
    assert gap[1] == [one(conn, "SELECT point_id FROM point WHERE tag = 'energy'")]
    assert gap[2] == 1234
    assert gap[3] == {agent.epoch: [[3, 5]], "f" * 32: [[1, 9]]}
    # No reading changes, so no account does, whatever times the record gives.
    assert [cause for cause, _ in changes(conn)] == ["live"]
    assert str(one(conn, f"SELECT dropped FROM ledger_epoch WHERE epoch = '{agent.epoch}'")) == "{[3, 6)}"
    store(flush, agent.floats(9.0, seq=4))
    assert kinds(conn) == ["dropped"]
    assert one(conn, "SELECT count(*) FROM reading_float") == 1
    assert signals.value("gaps", "disk_full") == 1


def test_a_gap_of_an_unknown_schema_settles_at_once_and_is_told_after_the_birth(conn: Connection) -> None:
    from cloud_ingest.ingest.config import IngestConfig
    from cloud_ingest.ingest.replay import Replayer

    agent, signals = FakeAgent(), Signals()
    flush = flush_of(conn, signals)
    store(flush, agent.gap({agent.epoch: ((2, 3),)}))
    assert str(one(conn, "SELECT dropped FROM ledger_epoch")) == "{[2, 4)}"
    assert one(conn, "SELECT count(*) FROM gap") == 0
    agent.seq = 3
    store(flush, agent.birth())
    Replayer(lambda: (conn, flush), IngestConfig(), signals, lambda epochs: None).sweep(conn, flush)
    assert one(conn, "SELECT readings FROM gap") == 10
    assert changes(conn) == []


def test_a_gap_record_without_details_is_a_row_too(conn: Connection) -> None:
    agent = FakeAgent()
    store(flush_of(conn), agent.birth(), agent.event("buffer_corrupt"))
    assert conn.execute("SELECT reason, points, first_at, readings FROM gap").fetchall() == [
        ("buffer_corrupt", [], None, 0)
    ]


def test_the_latest_birth_describes_a_point_in_whatever_order_births_come(conn: Connection) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    gap_limits = []
    # The second is older than the first, as a retained birth may be; the third is newer and says the first again.
    for created_us, gap_limit_s in ((2_000, 900.0), (1_000, 1800.0), (3_000, 900.0), (4_000, 1800.0), (5_000, 900.0)):
        store(flush, agent.birth(created_us=created_us, gap_limit_s=gap_limit_s))
        gap_limits.append(one(conn, "SELECT definition->'gap_limit_s' FROM point WHERE tag = 'energy'"))
    assert gap_limits == [900, 900, 900, 1800, 900]


def test_an_old_last_will_does_not_put_a_running_agent_offline(conn: Connection) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    old, new = "1" * 32, "2" * 32
    store(flush, agent.session(session=old))
    store(flush, agent.session(session=new), agent.session(state="offline", session=old))
    assert one(conn, "SELECT state FROM agent") == "online"
    assert one(conn, "SELECT session FROM agent") == UUID(new)
    store(flush, agent.session(state="offline", session=new))
    assert one(conn, "SELECT state FROM agent") == "offline"


def test_a_gap_record_with_a_fault_settles_its_seqs_all_the_same(conn: Connection) -> None:
    agent = FakeAgent()
    store(flush_of(conn), agent.birth(), agent.gap({agent.epoch: ((3, 4),)}, index=99))
    assert kinds(conn) == ["invalid"]
    assert str(one(conn, "SELECT dropped FROM ledger_epoch")) == "{[3, 5)}"


def test_session_records_tell_the_agents_state(conn: Connection) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    effects = store(flush, agent.session("a" * 32, "b" * 32, session="1" * 32))
    assert [record.session for record in effects.sessions.values()] == ["1" * 32]
    assert one(conn, "SELECT state FROM agent") == "online"
    effects = store(flush, agent.session(state="offline", session="1" * 32))
    assert effects.sessions == {}
    row = conn.execute("SELECT state, session::text, cardinality(epochs) FROM agent").fetchone()
    assert row is not None
    assert (row[0], row[1].replace("-", ""), row[2]) == ("offline", "1" * 32, 2)


def test_nothing_of_a_flush_is_stored_when_one_part_fails(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    monkeypatch.setattr("cloud_ingest.ingest.write.feed.append_all", lambda conn, rows: conn.execute("SELECT 1/0"))
    with pytest.raises(psycopg.DataError):
        store(flush, agent.birth(), agent.floats(1.0))
    assert one(conn, "SELECT count(*) FROM ledger") == 0
    assert one(conn, "SELECT count(*) FROM reading_float") == 0


def test_what_was_remembered_of_a_former_incarnation_is_not_used(conn: Connection) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    store(flush, agent.birth(), agent.floats(1.0))
    # As a restore would: the registrations are gone, and the ids belong to somebody else.
    for table in ("schema_point", "schema", "point", "agent", "ledger"):
        conn.execute(f"DELETE FROM {table}".encode())
    incarnation.restored(conn)
    with pytest.raises(ContentionError):
        store(flush, agent.floats(2.0))
    store(flush, agent.floats(2.0, seq=3))
    assert one(conn, "SELECT count(*) FROM parked") == 1
    assert one(conn, "SELECT count(*) FROM ledger l JOIN agent a USING (agent_id)") == 1


def test_writers_that_share_messages_store_each_once(connect: Callable[[], Connection]) -> None:
    agents = [FakeAgent(name=f"gw{n}", site=f"site{n}") for n in range(3)]
    births = [agent.birth() for agent in agents]
    batches = [agent.floats(*(float(n) for n in range(20)), first_s=k * 20) for k in range(12) for agent in agents]
    failures: list[BaseException] = []

    def write(conn: Connection, number: int) -> None:
        flush = flush_of(conn)
        mine = [*births, *(batches if number % 2 else batches[::-1])]
        try:
            for start in range(0, len(mine), 7):
                store(flush, *mine[start : start + 7])
        except (psycopg.Error, ContentionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(connect(), number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    conn = connect()
    parked = one(conn, "SELECT count(*) FROM parked")
    assert one(conn, "SELECT count(*) FROM reading_float") + 20 * parked == len(batches) * 20
    assert one(conn, "SELECT count(*) FROM ledger") == len(births) + len(batches)
