from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import psycopg
import pytest

from cloud_ingest.ingest import revive
from cloud_ingest.ingest.config import IngestConfig
from cloud_ingest.ingest.decode import parse
from cloud_ingest.ingest.replay import Replayer
from cloud_ingest.ingest.write import Flush, Revival
from cloud_ingest.signals import Signals
from cloud_ingest.store import feed, letters
from cloud_ingest.store.actions import Operator
from cloud_ingest.store.letters import Fits, Letter
from cloud_ingest.store.pool import Connection
from protocols.reading import digest
from tests.support.fake_agent import FakeAgent, Sent, point

ALICE = Operator("alice", "the decoder is put right")


def one(conn: Connection, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def flush_of(conn: Connection) -> Flush:
    return Flush(conn, 7, 600.0, Signals())


def store(flush: Flush, *sent: Sent) -> None:
    flush.store([message.parsed() for message in sent])


def kill(flush: Flush, *sent: Sent) -> None:
    """Store messages as a program did that could read who they are, and no more."""
    flush.store([message.parsed().killed("undecodable", "no such codec") for message in sent])


def bury(conn: Connection, *sent: Sent) -> None:
    """Store messages as a program did that could not read them at all: no row in the ledger."""
    letters.add(
        conn,
        [
            Letter("acme", "gw1", each.topic, "undecodable", "no such codec", digest(each.payload), each.payload)
            for each in sent
        ],
    )


def replay(conn: Connection) -> list[Revival]:
    flush = flush_of(conn)
    return [revive.revive(conn, flush, ident, ALICE) for ident in letters.idents(conn)]


def fates(revivals: Sequence[Revival]) -> list[tuple[str, str]]:
    return [(revival.fate, revival.kind) for revival in revivals]


def values(conn: Connection) -> list[float]:
    return [row[0] for row in conn.execute("SELECT value FROM reading_float ORDER BY value").fetchall()]


def causes(conn: Connection) -> list[str]:
    feed.follow(conn, "test")
    with conn.transaction():
        return [change.cause for change in feed.read(conn, "test")]


def sweep(conn: Connection) -> None:
    flush = flush_of(conn)
    Replayer(lambda: (conn, flush), IngestConfig(), Signals(), lambda epochs: None).sweep(conn, flush)


TABLES = (
    "tenant", "agent", "point", "schema", "ledger", "ledger_epoch", "dead_letter", "parked", "gap", "quarantine",
    "reading_float", "change_feed", "operator_action",
)  # fmt: skip


def contents(conn: Connection) -> dict[str, list[Any]]:
    return {table: conn.execute(f"SELECT t::text FROM {table} t ORDER BY 1".encode()).fetchall() for table in TABLES}


@pytest.mark.parametrize("known", [True, False], ids=["answered before", "never answered"])
def test_a_letter_that_can_be_stored_by_now_is_stored_once(conn: Connection, known: bool) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    birth, batch = agent.birth(), agent.floats(1.0, 2.0)
    store(flush, birth)
    if known:
        kill(flush, batch)
    else:
        bury(conn, batch)
    (ident,) = letters.idents(conn)
    assert fates(replay(conn)) == [("stored", "")]
    assert values(conn) == [1.0, 2.0]
    row = conn.execute("SELECT status, readings, schema_id, last_at - first_at FROM ledger WHERE seq = 2").fetchone()
    assert row is not None
    assert row[:3] == (0, 2, bytes.fromhex(agent.schema.id()))
    assert row[3].total_seconds() == 1
    assert letters.idents(conn) == []
    assert one(conn, "SELECT count(*) FROM reading_float r JOIN ledger l USING (batch_id)") == 2
    before = contents(conn)
    assert revive.revive(conn, flush, ident, ALICE) == Revival(ident, "gone")
    store(flush, batch)
    assert values(conn) == [1.0, 2.0]
    after = contents(conn)
    assert {table for table in TABLES if before[table] != after[table]} == set()
    assert causes(conn) == ["replay"]
    action = conn.execute("SELECT who, what, why, detail->'letter'->>'kind', detail->>'fate' FROM operator_action")
    assert action.fetchall() == [("alice", "dlq replay", "the decoder is put right", "undecodable", "stored")]


@pytest.mark.parametrize("parked", [True, False])
def test_a_letter_of_a_message_that_came_again_is_settled_and_stores_nothing(conn: Connection, parked: bool) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    birth, batch = agent.birth(), agent.floats(1.0)
    bury(conn, batch)
    store(flush, *([] if parked else [birth]), batch)
    assert fates(replay(conn)) == [("duplicate", "")]
    assert letters.idents(conn) == []
    store(flush, birth)
    sweep(conn)
    assert values(conn) == [1.0]


def test_a_letter_whose_schema_is_missing_is_parked_and_stored_when_it_comes(conn: Connection) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    birth, batch = agent.birth(), agent.floats(1.0)
    kill(flush, batch)
    assert fates(replay(conn)) == [("parked", "")]
    assert one(conn, "SELECT status FROM ledger") == 1
    assert letters.idents(conn) == []
    sweep(conn)
    assert values(conn) == []
    store(flush, birth)
    sweep(conn)
    sweep(conn)
    assert values(conn) == [1.0]
    assert one(conn, "SELECT array_agg(DISTINCT status) FROM ledger") == [0]


def test_a_refused_birth_is_registered_once_nothing_speaks_against_it(conn: Connection) -> None:
    agent, changed = FakeAgent(points=[point("a", "int")]), FakeAgent(points=[point("a")])
    flush = flush_of(conn)
    store(flush, agent.birth())
    store(flush, changed.birth(), changed.floats(5.0))
    assert fates(replay(conn)) == [("dead", "redefined")]
    assert one(conn, "SELECT times FROM dead_letter") == 2
    for table in ("schema_point", "schema", "point"):
        conn.execute(f"DELETE FROM {table}".encode())
    assert fates(replay(conn)) == [("stored", "")]
    sweep(conn)
    assert values(conn) == [5.0]


def test_a_parked_batch_that_died_can_be_replayed(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    birth = agent.birth()
    store(flush, agent.floats(1.0), birth)
    with monkeypatch.context() as broken:
        broken.setattr("cloud_ingest.ingest.write.copy.write", _data_error)
        sweep(conn)
    assert [letter.kind for letter in letters.newest(conn, 10)] == ["poison"]
    assert fates(replay(conn)) == [("stored", "")]
    assert values(conn) == [1.0]


def test_what_can_not_be_stored_stays_and_says_why(conn: Connection) -> None:
    agent, other = FakeAgent(), FakeAgent("rival", "gw9")
    flush = flush_of(conn)
    store(flush, agent.birth(), agent.floats(1.0))
    agent.seq += 1
    store(
        flush,
        agent.floats(99.0, seq=2),
        agent.gap({agent.epoch: ((3, 3),)}),
        Sent(agent.topic(), other.floats(7.0).payload),
        Sent(agent.topic(), b"not JSON"),
        Sent("metercarbon/1/x y/z/gap", b"?"),
        Sent(agent.session().topic, other.session().payload),
    )
    store(flush, agent.floats(3.0, seq=3))
    said = {letter.id: letter for letter in letters.newest(conn, 100)}
    wanted = {"conflict", "identity", "undecodable", "topic", "dropped"}
    assert {letter.kind for letter in said.values()} == wanted
    readings, ledger = values(conn), one(conn, "SELECT count(*) FROM ledger")
    for times in (2, 3):
        revivals = replay(conn)
        assert {revival.fate for revival in revivals} == {"dead"}
        for revival in revivals:
            assert (revival.kind, revival.reason) == (said[revival.id].kind, said[revival.id].reason)
        assert {letter.times for letter in letters.newest(conn, 100)} == {times}
        assert values(conn) == readings == [1.0]
        assert one(conn, "SELECT count(*) FROM ledger") == ledger
    reasons = " ".join(letter.reason for letter in said.values())
    assert "the payload claims rival/gw9" in reasons
    assert "another message with this agent, epoch and seq is in the ledger" in reasons


def test_a_session_of_long_ago_does_not_change_the_agents_state(conn: Connection) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    store(flush, agent.session(session="1" * 32))
    bury(conn, agent.session(state="offline", session="1" * 32))
    assert fates(replay(conn)) == [("dead", "invalid")]
    assert one(conn, "SELECT state FROM agent") == "online"


def test_content_that_the_ledger_can_not_compare_is_kept(conn: Connection) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    store(flush, agent.birth())
    batch = agent.floats(1.0)
    bury(conn, batch)
    # As if another message had been stored under this key, and its row been folded away.
    conn.execute("INSERT INTO ledger_epoch (agent_id, epoch, committed) SELECT agent_id, epoch, '{[1,5)}' FROM ledger")
    assert fates(replay(conn)) == [("dead", "conflict")]
    assert values(conn) == []
    assert one(conn, "SELECT payload FROM dead_letter") == batch.payload


def test_a_letter_that_poisons_the_copy_stays_and_its_neighbours_are_stored(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloud_ingest.store import copy

    agent = FakeAgent()
    flush = flush_of(conn)
    store(flush, agent.birth())
    kill(flush, agent.floats(1.0), agent.floats(666.0), agent.floats(3.0))
    write = copy.write

    def picky(connection: Connection, rows: copy.Rows) -> None:
        write(connection, rows)
        if 666.0 in rows.values:
            _data_error()

    with monkeypatch.context() as broken:
        broken.setattr("cloud_ingest.ingest.write.copy.write", picky)
        assert sorted(fates(replay(conn))) == [("dead", "poison"), ("stored", ""), ("stored", "")]
    assert values(conn) == [1.0, 3.0]
    assert one(conn, "SELECT array_agg(status ORDER BY seq) FROM ledger") == [0, 0, 2, 0]
    assert fates(replay(conn)) == [("stored", "")]
    assert values(conn) == [1.0, 3.0, 666.0]


def test_a_failure_before_the_commit_leaves_the_letter_and_nothing_else(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = FakeAgent()
    flush = flush_of(conn)
    store(flush, agent.birth())
    kill(flush, agent.floats(1.0))
    before = contents(conn)

    def fail(*_: Any) -> int:
        raise psycopg.OperationalError("gone")

    with monkeypatch.context() as broken:
        broken.setattr("cloud_ingest.store.letters.actions.record", fail)
        with pytest.raises(psycopg.OperationalError):
            replay(conn)
    assert contents(conn) == before
    assert fates(replay(conn)) == [("stored", "")]


def test_a_rehearsal_says_what_would_be_and_changes_nothing(conn: Connection) -> None:
    agent, other, late = FakeAgent(), FakeAgent(name="gw2", site="mine"), FakeAgent(name="gw3", site="pit")
    flush = flush_of(conn)
    store(flush, agent.birth())
    kill(flush, agent.floats(1.0), agent.floats(1.0, first_s=1e8))
    for sent in (other.birth(), late.floats(2.0), Sent(agent.topic(), b"?")):
        bury(conn, sent)
    before = contents(conn)
    rehearsed = [revive.rehearse(conn, lambda: flush_of(conn), ident, ALICE) for ident in letters.idents(conn)]
    assert [revival.fate for revival in rehearsed] == ["stored", "stored", "stored", "parked", "dead"]
    assert contents(conn) == before
    assert [revival.fate for revival in replay(conn)] == [revival.fate for revival in rehearsed]


@pytest.mark.parametrize("known", [True, False], ids=["answered before", "never answered"])
def test_replays_and_redeliveries_at_once_store_each_message_once(
    connect: Callable[[], Connection], known: bool
) -> None:
    conn = connect()
    agent = FakeAgent()
    flush = flush_of(conn)
    store(flush, agent.birth())
    batches = [agent.floats(float(n), first_s=n) for n in range(25)]
    if known:
        kill(flush, *batches)
    else:
        bury(conn, *batches)
    failures: list[BaseException] = []
    done: list[Revival] = []
    barrier = threading.Barrier(4)

    def work(mine: Connection, backwards: bool) -> None:
        writing = flush_of(mine)
        idents = letters.idents(mine)
        order = idents[::-1] if backwards else idents
        try:
            barrier.wait(30)
            done.extend(revive.revive(mine, writing, ident, ALICE) for ident in order)
        except psycopg.Error as error:
            failures.append(error)

    def redeliver(mine: Connection, step: int) -> None:
        writing = flush_of(mine)
        try:
            barrier.wait(30)
            for start in range(0, len(batches), step):
                store(writing, *batches[start : start + step])
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(connect(), backwards)) for backwards in (False, True)]
    threads += [threading.Thread(target=redeliver, args=(connect(), step)) for step in (1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert values(conn) == [float(n) for n in range(25)]
    assert letters.idents(conn) == []
    assert one(conn, "SELECT array_agg(DISTINCT status) FROM ledger") == [0]
    settled = [revival for revival in done if revival.fate != "gone"]
    assert sorted(revival.id for revival in settled) == sorted({revival.id for revival in done})
    assert one(conn, "SELECT count(*) FROM operator_action") == 25


def test_a_redelivery_that_waits_for_a_replay_stores_nothing(
    connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    conn, agent = connect(), FakeAgent()
    batch = agent.floats(1.0)
    flush = flush_of(conn)
    store(flush, agent.birth())
    bury(conn, batch)
    settle = letters.settle
    redelivery = threading.Thread(target=lambda mine: store(flush_of(mine), batch), args=(connect(),))

    def settle_late(*arguments: Any) -> bool:
        """Start the redelivery, and see it wait, before the replay commits."""
        redelivery.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while one(watcher, waiting) == 0:
            redelivery.join(0.02)
            assert redelivery.is_alive()
        return settle(*arguments)

    watcher = connect()
    monkeypatch.setattr("cloud_ingest.ingest.write.letters.settle", settle_late)
    assert fates(replay(conn)) == [("stored", "")]
    redelivery.join(60)
    assert values(conn) == [1.0]
    assert letters.idents(conn) == []


@pytest.mark.parametrize("readable", ["wholly", "only who it is", "not at all"])
def test_a_letter_that_was_discarded_meanwhile_leaves_nothing(
    connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch, readable: str
) -> None:
    conn, other, agent = connect(), connect(), FakeAgent()
    flush = flush_of(conn)
    store(flush, agent.birth())
    payload = agent.floats(1.0).payload
    if readable != "wholly":
        payload = b"?" if readable == "not at all" else orjson.dumps(orjson.loads(payload) | {"t0": None})
    bury(conn, Sent(agent.topic(), payload))
    (ident,) = letters.idents(conn)

    def parse_late(topic: str, payload: bytes) -> Any:
        assert letters.discard(other, ident, ALICE)
        return parse(topic, payload)

    before = one(conn, "SELECT count(*) FROM ledger")
    monkeypatch.setattr("cloud_ingest.ingest.revive.parse", parse_late)
    assert revive.revive(conn, flush, ident, ALICE) == Revival(ident, "gone")
    assert values(conn) == []
    assert one(conn, "SELECT count(*) FROM ledger") == before
    assert letters.idents(conn) == []


def test_a_discarded_letter_leaves_who_when_and_why(conn: Connection) -> None:
    agent = FakeAgent()
    store(flush_of(conn), Sent(agent.topic(), b"?"), Sent(agent.topic(), b"!"))
    first, second = letters.idents(conn)
    assert letters.discard(conn, first, Operator("bob\0", "scrap \udfff"))
    assert not letters.discard(conn, first, Operator("bob", "scrap"))
    assert letters.idents(conn) == [second]
    ((who, what, why, detail),) = conn.execute("SELECT who, what, why, detail FROM operator_action").fetchall()
    assert (who, what, why) == ("bob�", "dlq discard", "scrap ?")
    letter = detail["letter"]
    assert (letter["id"], letter["kind"], letter["digest"]) == (first, "undecodable", digest(b"?").hex())
    assert letter["agent"] == "gw1"


def test_filters_must_all_fit(conn: Connection) -> None:
    def letter(topic: str, agent: str, kind: str, reason: str) -> Letter:
        return Letter("acme", agent, topic, kind, reason, b"d", b"")

    letters.add(conn, [letter("1", "gw1", "invalid", "Seq 5"), letter("2", "gw2", "invalid", "seq 6")])
    letters.add(conn, [letter("3", "gw1", "poison", "NUL"), letter("4", "gw1", "invalid", "100%")])

    def topics(fits: Fits) -> str:
        idents = letters.idents(conn, fits)
        listed = letters.newest(conn, 100, None, fits)
        assert [found.id for found in reversed(listed)] == idents
        return "".join(found.topic for found in reversed(listed))

    assert topics(Fits()) == "1234"
    assert topics(Fits(agent="gw1", kind="invalid")) == "14"
    assert topics(Fits(reason="sEQ")) == "12"
    assert topics(Fits(reason="%")) == "4"
    assert topics(Fits(tenant="other")) == ""


def _data_error(*_: Any) -> None:
    raise psycopg.DataError("a value that can't be")
