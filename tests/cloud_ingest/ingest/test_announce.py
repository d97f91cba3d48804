from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cloud_ingest.ingest.announce import Announcer
from cloud_ingest.ingest.write import Flush
from cloud_ingest.signals import Signals
from cloud_ingest.store import incarnation
from cloud_ingest.store.pool import Connection
from protocols import committed, topics
from protocols.committed import Committed
from tests.support.fake_agent import FakeAgent, Sent
from tests.support.waiting import wait_until


class Wire:
    """Stands for the broker's client: notes what is published, or refuses it."""

    def __init__(self) -> None:
        self.up = True
        self.said: list[tuple[str, Committed]] = []

    def publish(self, topic: str, payload: bytes) -> bool:
        if self.up:
            self.said.append((topic, committed.decode(payload)))
        return self.up


@contextmanager
def announcing(connect: Callable[[], Connection], wire: Wire) -> Iterator[Announcer]:
    announcer = Announcer(connect, wire.publish, 0.05, Signals())
    thread = threading.Thread(target=announcer.run)
    thread.start()
    try:
        yield announcer
    finally:
        announcer.stop()
        thread.join(60)
        assert not thread.is_alive()


def store(conn: Connection, announcer: Announcer, *sent: Sent) -> None:
    announcer.heard(Flush(conn, 7, 600.0, Signals()).store([message.parsed() for message in sent]))


def test_many_flushes_are_announced_in_few_messages(conn: Connection, connect: Callable[[], Connection]) -> None:
    agent, wire = FakeAgent(), Wire()
    with announcing(connect, wire) as announcer:
        store(conn, announcer, agent.birth())
        for n in range(40):
            store(conn, announcer, agent.floats(float(n)))
        wait_until(lambda: bool(wire.said) and wire.said[-1][1].epochs[agent.epoch].through == 41, "all is announced")
    assert len(wire.said) < 40
    assert {topic for topic, _ in wire.said} == {topics.committed(agent.tenant, agent.name)}
    positions = [message.epochs[agent.epoch].position for _, message in wire.said]
    assert positions == sorted(positions)


def test_what_could_not_be_published_is_announced_later(conn: Connection, connect: Callable[[], Connection]) -> None:
    agent, wire = FakeAgent(), Wire()
    wire.up = False
    with announcing(connect, wire) as announcer:
        store(conn, announcer, agent.birth(), agent.session(session="5" * 32))
        wait_until(lambda: announcer._signals.value("announcements", "put off") >= 2, "it has tried")
        wire.up = True
        wait_until(lambda: bool(wire.said), "it is announced")
    (_, message) = wire.said[0]
    assert message.answers == "5" * 32
    assert message.epochs[agent.epoch].through == 1


def test_the_newest_session_of_an_agent_is_answered(conn: Connection, connect: Callable[[], Connection]) -> None:
    agent, wire = FakeAgent(), Wire()
    wire.up = False
    with announcing(connect, wire) as announcer:
        store(conn, announcer, agent.session("a" * 32, session="1" * 32))
        wait_until(lambda: announcer._signals.value("announcements", "put off") >= 1, "it has tried")
        store(conn, announcer, agent.session("b" * 32, session="2" * 32))
        wire.up = True
        wait_until(lambda: bool(wire.said), "it is announced")
    assert [message.answers for _, message in wire.said] == ["2" * 32]
    assert wire.said[0][1].epochs.keys() == {"b" * 32}


def test_a_lost_connection_loses_no_announcement(conn: Connection, connect: Callable[[], Connection]) -> None:
    agent, wire = FakeAgent(), Wire()
    connections: list[Connection] = []

    def remember() -> Connection:
        connections.append(connect())
        return connections[-1]

    with announcing(remember, wire) as announcer:
        store(conn, announcer, agent.birth())
        wait_until(lambda: bool(wire.said), "the first is announced")
        conn.execute("SELECT pg_terminate_backend(%s)", (connections[0].info.backend_pid,))
        store(conn, announcer, agent.floats(1.0))
        wait_until(lambda: wire.said[-1][1].epochs[agent.epoch].through == 2, "the second is announced")
    assert len(connections) == 2


def test_a_new_incarnation_is_noticed_without_any_traffic(conn: Connection, connect: Callable[[], Connection]) -> None:
    agent, silent, wire = FakeAgent(), FakeAgent(name="silent"), Wire()
    with announcing(connect, wire) as announcer:
        store(conn, announcer, agent.session(session="7" * 32), silent.birth())
        wait_until(lambda: len({topic for topic, _ in wire.said}) == 2, "both are announced")
        life = incarnation.restored(conn)
        wait_until(lambda: wire.said[-1][1].incarnation == life.id, "the new incarnation is announced")
    assert [message.answers for _, message in wire.said if message.incarnation == life.id] == ["7" * 32]


def test_disputed_seqs_are_left_out(conn: Connection, connect: Callable[[], Connection]) -> None:
    agent, wire = FakeAgent(), Wire()
    with announcing(connect, wire) as announcer:
        store(conn, announcer, agent.birth(), agent.floats(1.0), agent.floats(2.0))
        store(conn, announcer, agent.floats(9.0, seq=2))
        wait_until(lambda: bool(wire.said) and not wire.said[-1][1].epochs[agent.epoch].covers(2), "the dispute shows")
    state = wire.said[-1][1].epochs[agent.epoch]
    assert (state.through, state.ranges) == (1, ((3, 3),))
