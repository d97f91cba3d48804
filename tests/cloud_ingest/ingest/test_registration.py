"""Who is taken from: known and unknown, enabled and disabled senders; what is not taken is never lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cloud_ingest.errors import ContentionError
from cloud_ingest.ingest.config import IngestConfig, MqttConfig, Registration
from cloud_ingest.ingest.decode import parse
from cloud_ingest.ingest.inbox import Inbox
from cloud_ingest.ingest.replay import Replayer
from cloud_ingest.ingest.service import Ingest
from cloud_ingest.ingest.write import Effects, Flush
from cloud_ingest.ingest.writer import Writer
from cloud_ingest.signals import Signals
from cloud_ingest.store import administration, letters
from cloud_ingest.store.config import StoreConfig
from cloud_ingest.store.pool import Connection
from deploy.local.broker import Broker
from tests.support.fake_agent import FakeAgent, Sent
from tests.support.publisher import Publisher
from tests.support.waiting import wait_until


class Store:
    """A flush that tries again as a writer does, and the administrator's connection."""

    def __init__(self, conn: Connection, admin: Connection, registration: Registration) -> None:
        self.signals = Signals()
        self.flush = Flush(conn, 7, 600.0, self.signals, registration)
        self.admin = admin
        self.contentions = 0

    def store(self, *sent: Sent) -> Effects:
        messages = [message.parsed() for message in sent]
        try:
            return self.flush.store(messages)
        except ContentionError:
            self.contentions += 1
            return self.flush.store(messages)

    def add(self, *, site: bool = True) -> None:
        administration.add(self.admin, "tenant", "acme", "acme")
        administration.add(self.admin, "agent", "acme", "gw1")
        if site:
            administration.add(self.admin, "site", "acme", "plant")

    def set_disabled(self, kind: administration.Kind, *, disabled: bool) -> None:
        name = {"tenant": "acme", "agent": "gw1", "site": "plant"}[kind]
        administration.set_disabled(self.admin, kind, "acme", name, disabled=disabled)

    def values(self) -> list[float]:
        rows = self.admin.execute("SELECT value FROM reading_float ORDER BY at, value").fetchall()
        return [value for (value,) in rows]

    def letters(self) -> list[tuple[str, str]]:
        return [(letter.kind, letter.reason) for letter in reversed(letters.newest(self.admin, 100))]

    def count(self, table: str) -> int:
        return int(self.admin.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0])

    def replay(self) -> None:
        """Store the dead letters again from what is kept of them."""
        for letter in reversed(letters.newest(self.admin, 100)):
            found = letters.find(self.admin, letter.id)
            assert found is not None
            self.flush.store([parse(found[0].topic, found[1])])


@pytest.fixture
def known(connect: Callable[[], Connection]) -> Store:
    return Store(connect(), connect(), "known")


@pytest.fixture
def automatic(connect: Callable[[], Connection]) -> Store:
    return Store(connect(), connect(), "automatic")


def test_an_unknown_sender_is_registered_where_that_is_automatic(automatic: Store) -> None:
    agent = FakeAgent()
    automatic.store(agent.birth(), agent.floats(1.0))
    assert automatic.values() == [1.0]
    assert automatic.count("site") == 1


def test_what_an_unknown_agent_sends_is_kept_with_how_to_add_it(known: Store) -> None:
    agent = FakeAgent()
    effects = known.store(agent.birth(), agent.floats(1.0), agent.gap({agent.epoch: ((7, 8),)}))
    # It is not told that anything is committed: it keeps all and sends it again.
    assert effects.touched == set()
    assert not effects.births
    assert [kind for kind, _ in known.letters()] == ["unregistered"] * 3
    assert "cloud-ingest agent add INGEST_TOML acme gw1" in known.letters()[0][1]
    assert [known.count(table) for table in ("tenant", "agent", "ledger", "ledger_epoch", "schema")] == [0] * 5
    assert known.signals.value("dead_letters", "unregistered") == 3


def test_once_added_it_is_taken_without_restart_and_the_letters_can_be_replayed(known: Store) -> None:
    agent = FakeAgent()
    sent = [agent.birth(), agent.floats(1.0), agent.floats(2.0, first_s=1)]
    known.store(*sent)
    known.add()
    # What it sends on, what it sends again, and the letters, in any order: each reading once.
    known.store(sent[1], agent.floats(3.0, first_s=2))
    assert known.contentions == 1
    known.replay()
    known.replay()
    effects = known.store(*sent)
    assert {epoch for _, epoch in effects.touched} == {agent.epoch}
    replayer = Replayer(lambda: (known.admin, known.flush), IngestConfig(), known.signals, lambda epochs: None)
    replayer.sweep(known.admin, known.flush)
    assert known.values() == [1.0, 2.0, 3.0]
    assert known.count("ledger") == 4


def test_a_known_agent_of_an_unknown_site_is_told_how_to_add_the_site(known: Store) -> None:
    known.add(site=False)
    agent = FakeAgent()
    birth = agent.birth()
    known.store(birth, agent.floats(1.0))
    assert known.letters()[0][0] == "unregistered"
    assert "cloud-ingest site add INGEST_TOML acme plant" in known.letters()[0][1]
    assert (known.count("schema"), known.count("point"), known.count("parked")) == (0, 0, 1)
    administration.add(known.admin, "site", "acme", "plant")
    known.store(birth)
    assert (known.count("schema"), known.count("point")) == (1, 2)


def test_an_unknown_agents_session_is_counted_and_changes_nothing(known: Store) -> None:
    agent = FakeAgent()
    effects = known.store(agent.session())
    assert (effects.sessions, effects.agents) == ({}, {})
    assert known.letters() == []
    assert known.signals.value("sessions", "unregistered") == 1
    known.add()
    assert len(known.store(agent.session()).sessions) == 1


@pytest.mark.parametrize("registration", ["automatic", "known"])
def test_nothing_is_taken_from_what_is_disabled_and_nothing_is_lost(
    connect: Callable[[], Connection], registration: Registration
) -> None:
    store = Store(connect(), connect(), registration)
    store.add()
    agent = FakeAgent()
    store.store(agent.birth())
    wanted: list[float] = []
    kinds: tuple[administration.Kind, ...] = ("tenant", "site", "agent")
    for number, kind in enumerate(kinds):
        rows = store.count("ledger")
        store.contentions = 0
        store.set_disabled(kind, disabled=True)
        batch = agent.floats(2.0 * number, first_s=2 * number)
        assert store.store(batch).touched == set()
        assert store.contentions == 1
        letter, reason = store.letters()[-1]
        assert letter == "disabled"
        assert f"cloud-ingest {kind} enable INGEST_TOML acme" in reason
        assert (store.values(), store.count("ledger")) == (wanted, rows)
        store.set_disabled(kind, disabled=False)
        store.store(agent.floats(2.0 * number + 1, first_s=2 * number + 1))
        assert store.contentions == 2
        store.replay()
        store.store(batch)
        wanted += [2.0 * number, 2.0 * number + 1]
        assert store.values() == wanted


def test_a_disabled_agents_gap_record_settles_nothing(automatic: Store) -> None:
    agent = FakeAgent()
    automatic.store(agent.birth())
    automatic.set_disabled("agent", disabled=True)
    automatic.store(agent.gap({agent.epoch: ((5, 6),)}))
    assert [kind for kind, _ in automatic.letters()] == ["disabled"]
    assert automatic.count("ledger_epoch") == 0


def test_whether_a_disabled_agent_is_there_is_still_told(automatic: Store) -> None:
    agent = FakeAgent()
    automatic.store(agent.birth())
    automatic.set_disabled("agent", disabled=True)
    automatic.store(agent.session())
    (listed,) = administration.listing(automatic.admin, "agent")
    assert listed["state"] == "online"
    assert listed["disabled_at"] is not None


def test_neighbours_in_the_same_flush_are_stored(automatic: Store) -> None:
    barred, other = FakeAgent(), FakeAgent(name="gw2")
    automatic.store(barred.birth(), other.birth())
    automatic.set_disabled("agent", disabled=True)
    automatic.store(barred.floats(1.0), other.floats(2.0), barred.floats(3.0))
    assert automatic.values() == [2.0]
    assert len(automatic.letters()) == 2


def test_a_running_writer_notices_by_itself(connect: Callable[[], Connection]) -> None:
    agent, admin, signals = FakeAgent(), connect(), Signals()
    inbox = Inbox(100)
    acknowledged: list[int] = []
    inbox.acknowledge = lambda delivery: acknowledged.append(delivery.mid)

    def connected() -> tuple[Connection, Flush]:
        conn = connect()
        return conn, Flush(conn, 7, 600.0, signals, "known")

    writer = Writer(connected, inbox, IngestConfig(flush_s=0.02), signals, lambda effects: None, threading.Event())
    thread = threading.Thread(target=writer.run)
    thread.start()
    number = 0

    def put(*sent: Sent) -> None:
        nonlocal number
        for message in sent:
            number += 1
            assert inbox.put(message.topic, message.payload, number, 1)
        wait_until(lambda: len(acknowledged) == number, "all are acknowledged")

    try:
        put(agent.birth())
        administration.add(admin, "tenant", "acme", "acme")
        administration.add(admin, "agent", "acme", "gw1")
        administration.add(admin, "site", "acme", "plant")
        put(agent.birth(), agent.floats(1.0))
        administration.set_disabled(admin, "agent", "acme", "gw1", disabled=True)
        put(agent.floats(2.0))
        administration.set_disabled(admin, "agent", "acme", "gw1", disabled=False)
        put(agent.floats(3.0))
    finally:
        inbox.close()
        thread.join()
    assert admin.execute("SELECT array_agg(value ORDER BY value) FROM reading_float").fetchone() == ([1.0, 3.0],)
    kinds = [letter.kind for letter in reversed(letters.newest(admin, 10))]
    assert kinds == ["unregistered", "disabled"]


@pytest.mark.services
def test_an_agent_that_is_added_while_ingest_runs_gets_its_messages_in(
    conn: Connection, database_dsn: str, mosquitto: Broker
) -> None:
    agent = FakeAgent()
    sent = [agent.birth(), agent.floats(1.0), agent.floats(2.0, first_s=1)]
    mqtt = MqttConfig(host=mosquitto.host, port=mosquitto.port, client_id="ingest-test")
    config = IngestConfig(sweep_s=0.2, registration="known")
    ingest = Ingest(StoreConfig(dsn=database_dsn), mqtt, config, Signals())
    ingest.start()
    try:
        wait_until(lambda: ingest.connected, "ingest connects to the broker")
        with Publisher(mosquitto) as publisher:
            publisher.send(*sent)
            wait_until(lambda: len(letters.newest(conn, 10)) == 3, "all three are dead letters")
            assert publisher.heard(agent) == []
            administration.add(conn, "tenant", "acme", "acme")
            administration.add(conn, "agent", "acme", "gw1")
            administration.add(conn, "site", "acme", "plant")
            # An agent sends again what it is not told of.
            publisher.send(*sent)
            publisher.wait_covered(agent)
    finally:
        ingest.stop()
    assert conn.execute("SELECT array_agg(value ORDER BY at) FROM reading_float").fetchone() == ([1.0, 2.0],)
