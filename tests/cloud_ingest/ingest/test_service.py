"""Ingest against a real broker and a real database."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud_ingest.ingest import service
from cloud_ingest.ingest.config import IngestConfig, MqttConfig
from cloud_ingest.ingest.inbox import Delivery, Inbox
from cloud_ingest.ingest.service import Ingest
from cloud_ingest.signals import Signals
from cloud_ingest.store import incarnation
from cloud_ingest.store.config import StoreConfig
from cloud_ingest.store.pool import Connection
from deploy.local.broker import Broker, local_broker
from tests.support.fake_agent import FakeAgent
from tests.support.publisher import Publisher
from tests.support.waiting import wait_until

pytestmark = pytest.mark.services


def settings(broker: Broker, **changes: Any) -> MqttConfig:
    version = 5 if broker.mqtt_version == 5 else 3
    return MqttConfig(host=broker.host, port=broker.port, **{"version": version, "client_id": "ingest-test", **changes})


@contextmanager
def running(
    dsn: str, broker: Broker, signals: Signals | None = None, config: IngestConfig | None = None, **changes: Any
) -> Iterator[Ingest]:
    ingest = Ingest(
        StoreConfig(dsn=dsn), settings(broker, **changes), config or IngestConfig(sweep_s=0.2), signals or Signals()
    )
    ingest.start()
    try:
        wait_until(lambda: ingest.connected, "ingest connects to the broker")
        yield ingest
    finally:
        ingest.stop()


@pytest.fixture
def amqtt(tmp_path: Path) -> Iterator[Broker]:
    broker = local_broker(tmp_path, kind="amqtt")
    broker.start()
    yield broker
    broker.child.kill()


@pytest.fixture
def blocked(connect: Callable[[], Connection]) -> Callable[[], Any]:
    """Context in which no flush can commit."""

    @contextmanager
    def block() -> Iterator[None]:
        with connect().transaction() as transaction:
            transaction.connection.execute("LOCK TABLE ledger IN EXCLUSIVE MODE")
            yield

    return block


def is_waited_for(conn: Connection) -> bool:
    """Whether a flush has come to the blocked table."""
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'ledger'::regclass AND NOT granted"
    return bool(conn.execute(waiting).fetchone() != (0,))


def inbox_of(ingest: Ingest) -> Inbox:
    return ingest._inbox


def readings(conn: Connection) -> list[float]:
    return [row[0] for row in conn.execute("SELECT value FROM reading_float ORDER BY value").fetchall()]


def test_what_agents_publish_is_stored_and_they_hear_of_it(
    conn: Connection, database_dsn: str, mosquitto: Broker
) -> None:
    agents = [FakeAgent(name=f"gw{n}", site=f"s{n}") for n in range(3)]
    with running(database_dsn, mosquitto), Publisher(mosquitto) as publisher:
        for agent in agents:
            publisher.send(agent.birth(), retain=True)
            publisher.send(*(agent.floats(float(n)) for n in range(10)))
        for agent in agents:
            publisher.wait_covered(agent)
    assert readings(conn) == sorted([float(n) for n in range(10)] * 3)


def test_the_same_over_a_broker_that_knows_mqtt_3_only(conn: Connection, database_dsn: str, amqtt: Broker) -> None:
    agent = FakeAgent()
    with running(database_dsn, amqtt), Publisher(amqtt) as publisher:
        publisher.send(agent.birth(), *(agent.floats(float(n)) for n in range(200)), agent.session())
        publisher.wait_covered(agent)
    assert readings(conn) == [float(n) for n in range(200)]


def test_an_online_session_is_answered_with_every_epoch_it_lists(
    conn: Connection, database_dsn: str, mosquitto: Broker
) -> None:
    agent = FakeAgent()
    with running(database_dsn, mosquitto), Publisher(mosquitto) as publisher:
        publisher.send(agent.birth(), agent.floats(1.0))
        publisher.wait_covered(agent)
        unknown, session = uuid.uuid4().hex, uuid.uuid4().hex
        publisher.send(agent.session(unknown, agent.epoch, session=session))
        wait_until(lambda: any(m.answers == session for m in publisher.heard(agent)), "the session is answered")
        (answer,) = [m for m in publisher.heard(agent) if m.answers == session]
        assert answer.epochs.keys() == {unknown, agent.epoch}
        assert (answer.epochs[unknown].position, answer.epochs[unknown].through) == (0, 0)
        assert answer.epochs[agent.epoch].through == 2
        assert answer.incarnation == incarnation.current(conn).id


def test_nothing_is_acknowledged_before_the_commit_and_then_all_in_order(
    database_dsn: str, mosquitto: Broker, blocked: Callable[[], Any]
) -> None:
    agent = FakeAgent()
    acknowledged: list[int] = []
    received: list[int] = []
    with running(database_dsn, mosquitto) as ingest, Publisher(mosquitto) as publisher:
        inbox = inbox_of(ingest)
        original = inbox.acknowledge

        def spy(delivery: Delivery) -> None:
            acknowledged.append(delivery.mid)
            original(delivery)

        inbox.acknowledge = spy
        with blocked():
            publisher.send(agent.birth(), *(agent.floats(float(n)) for n in range(30)))
            wait_until(lambda: inbox.unacknowledged == 31, "ingest has received everything")
            received += [delivery.mid for delivery in inbox._unacknowledged]
            assert acknowledged == []
        publisher.wait_covered(agent)
        wait_until(lambda: inbox.unacknowledged == 0, "everything is acknowledged")
    assert acknowledged == received


def test_the_broker_is_held_back_by_the_receive_maximum(
    conn: Connection, database_dsn: str, mosquitto: Broker, blocked: Callable[[], Any]
) -> None:
    agent = FakeAgent()
    most = 0
    with running(database_dsn, mosquitto, receive_maximum=5) as ingest, Publisher(mosquitto) as publisher:
        inbox = inbox_of(ingest)
        with blocked():
            publisher.send(agent.birth(), *(agent.floats(float(n)) for n in range(60)))
            wait_until(lambda: inbox.unacknowledged == 5, "the window is full")
            threading.Event().wait(0.5)
            most = inbox.unacknowledged
        publisher.wait_covered(agent)
    assert most == 5
    assert readings(conn) == [float(n) for n in range(60)]


def test_what_was_not_acknowledged_comes_again_to_the_next_process(
    conn: Connection, database_dsn: str, mosquitto: Broker, blocked: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DRAIN_S", 0.2)
    agent, signals = FakeAgent(), Signals()
    with Publisher(mosquitto) as publisher:
        with blocked(), running(database_dsn, mosquitto) as ingest:
            publisher.send(agent.birth(), *(agent.floats(float(n)) for n in range(10)))
            wait_until(lambda: inbox_of(ingest).unacknowledged == 11, "ingest has received everything")
        with running(database_dsn, mosquitto, signals):
            publisher.wait_covered(agent)
    assert signals.value("messages", "data") >= 10
    assert readings(conn) == [float(n) for n in range(10)]


def test_after_an_orderly_end_nothing_comes_again(conn: Connection, database_dsn: str, mosquitto: Broker) -> None:
    agent, later = FakeAgent(), Signals()
    with Publisher(mosquitto) as publisher:
        with running(database_dsn, mosquitto):
            publisher.send(agent.birth(), *(agent.floats(float(n)) for n in range(200)))
            wait_until(lambda: len(readings(conn)) > 0, "the first ones are stored")
        kept = len(readings(conn))
        with running(database_dsn, mosquitto, later):
            publisher.wait_covered(agent)
    assert later.value("batches", "duplicate") == 0
    assert later.value("messages", "data") == 200 - kept


def test_a_broker_that_is_killed_gets_no_acknowledgement_meant_for_its_former_life(
    conn: Connection, database_dsn: str, mosquitto: Broker, blocked: Callable[[], Any]
) -> None:
    agent, signals = FakeAgent(), Signals()
    acknowledged: list[tuple[int, int]] = []
    with running(database_dsn, mosquitto, signals) as ingest:
        inbox = inbox_of(ingest)
        original = inbox.acknowledge

        def spy(delivery: Delivery) -> None:
            acknowledged.append((delivery.generation, delivery.mid))
            original(delivery)

        inbox.acknowledge = spy
        birth, sent = agent.birth(), [agent.floats(float(n)) for n in range(10)]
        with Publisher(mosquitto) as publisher:
            publisher.send(birth)
            publisher.wait_covered(agent, {1})
        wait_until(lambda: inbox.unacknowledged == 0, "the birth is acknowledged")
        acknowledged.clear()
        with blocked():
            with Publisher(mosquitto) as publisher:
                publisher.send(*sent)
                wait_until(lambda: inbox.unacknowledged == 10, "ingest has received everything")
                wait_until(lambda: is_waited_for(conn), "a flush has begun", 20)
            mosquitto.child.kill()
            wait_until(lambda: not ingest.connected, "ingest notices")
            mosquitto.start()
            wait_until(lambda: ingest.connected, "ingest connects again")
        wait_until(lambda: len(readings(conn)) > 0, "what ingest had taken is stored")
        assert acknowledged == []
        assert signals.value("acks_skipped") > 0
        with Publisher(mosquitto) as publisher:
            publisher.send(*sent)
            publisher.wait_covered(agent)
    assert readings(conn) == [float(n) for n in range(10)]
    assert {generation for generation, _ in acknowledged} == {inbox._generation - 1}


def test_lost_database_connections_lose_nothing(conn: Connection, database_dsn: str, mosquitto: Broker) -> None:
    agent, signals = FakeAgent(), Signals()
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'cloud-ingest %'"
    )
    killed = 0
    with running(database_dsn, mosquitto, signals) as ingest, Publisher(mosquitto) as publisher:
        publisher.send(agent.birth())
        for n in range(20):
            publisher.send(*(agent.floats(float(20 * n + k)) for k in range(20)))
            row = conn.execute(kill).fetchone()
            assert row is not None
            killed += row[0]
        publisher.wait_covered(agent)
        assert not ingest.failed.is_set()
    assert killed > 0
    assert signals.value("disconnections", "database") > 0
    assert readings(conn) == [float(n) for n in range(400)]


def test_data_that_came_before_their_birth_are_stored_after_it(
    conn: Connection, database_dsn: str, mosquitto: Broker
) -> None:
    agent = FakeAgent()
    birth = agent.birth()
    with running(database_dsn, mosquitto), Publisher(mosquitto) as publisher:
        publisher.send(*(agent.floats(float(n)) for n in range(5)))
        publisher.wait_covered(agent, set(range(2, 7)))
        assert readings(conn) == []
        publisher.send(birth)
        wait_until(lambda: len(readings(conn)) == 5, "parked batches are replayed")
    assert readings(conn) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_two_workers_of_a_group_divide_the_messages(conn: Connection, database_dsn: str, mosquitto: Broker) -> None:
    agent = FakeAgent()
    first, second = Signals(), Signals()
    with (
        running(database_dsn, mosquitto, first, client_id="w1", group="g"),
        running(database_dsn, mosquitto, second, client_id="w2", group="g", config=IngestConfig(writers=2)),
        Publisher(mosquitto) as publisher,
    ):
        publisher.send(agent.birth(), *(agent.floats(float(n)) for n in range(300)))
        publisher.send(agent.session())
        publisher.wait_covered(agent)
        wait_until(lambda: len(readings(conn)) == 300, "all readings are there")
        wait_until(lambda: first.value("sessions") + second.value("sessions") == 2, "both hear of the session")
    assert first.value("messages", "data") > 0
    assert second.value("messages", "data") > 0
    assert readings(conn) == [float(n) for n in range(300)]


def test_a_message_that_the_database_refuses_is_set_aside_and_its_neighbours_are_stored(
    conn: Connection, database_dsn: str, mosquitto: Broker, blocked: Callable[[], Any]
) -> None:
    agent, signals = FakeAgent(), Signals()
    # Stands for whatever may make a COPY fail: this value can't be stored.
    conn.execute("ALTER TABLE reading_float ADD CONSTRAINT poison CHECK (value <> 13)")
    with running(database_dsn, mosquitto, signals) as ingest, Publisher(mosquitto) as publisher:
        with blocked():
            publisher.send(agent.birth(), *(agent.floats(float(n)) for n in range(30)))
            wait_until(lambda: inbox_of(ingest).unacknowledged == 31, "all are in few flushes")
        publisher.wait_covered(agent)
    assert readings(conn) == [float(n) for n in range(30) if n != 13]
    assert conn.execute("SELECT kind FROM dead_letter").fetchall() == [("poison",)]
    assert signals.value("dead_letters", "poison") == 1


def test_after_a_restore_running_workers_tell_every_known_agent(
    conn: Connection, database_dsn: str, mosquitto: Broker
) -> None:
    agent = FakeAgent()
    with running(database_dsn, mosquitto), Publisher(mosquitto) as publisher:
        sent = [agent.birth(), *(agent.floats(float(n)) for n in range(10))]
        publisher.send(*sent)
        session = uuid.uuid4().hex
        publisher.send(agent.session(session=session))
        publisher.wait_covered(agent)
        # As a backup from before the last four batches would have it.
        conn.execute("DELETE FROM ledger WHERE seq > 7")
        conn.execute("DELETE FROM ledger_epoch")
        conn.execute("UPDATE ledger SET folded = false")
        conn.execute("DELETE FROM reading_float WHERE value >= 6")
        life = incarnation.restored(conn)

        def told() -> list[Any]:
            return [m for m in publisher.heard(agent) if m.incarnation == life.id and m.answers == session]

        wait_until(lambda: bool(told()), "the agent hears of the new incarnation")
        assert told()[0].incarnation_us > publisher.heard(agent)[0].incarnation_us
        assert told()[0].epochs[agent.epoch].through == 7
        publisher.send(*sent[7:])
        wait_until(lambda: len(readings(conn)) == 10, "what was missing is there again")
    assert readings(conn) == [float(n) for n in range(10)]


def test_what_a_former_process_did_not_live_to_announce_is_announced(
    conn: Connection, database_dsn: str, mosquitto: Broker
) -> None:
    agent = FakeAgent()
    with Publisher(mosquitto) as publisher:
        with running(database_dsn, mosquitto):
            publisher.send(agent.birth(), agent.floats(1.0))
            publisher.wait_covered(agent)
        conn.execute("DELETE FROM ledger_epoch")
        conn.execute("UPDATE ledger SET folded = false")
        before = len(publisher.heard(agent))
        with running(database_dsn, mosquitto):
            wait_until(lambda: len(publisher.heard(agent)) > before, "the agent hears again")
            assert publisher.heard(agent)[-1].epochs[agent.epoch].through == 2


def test_messages_let_go_by_a_full_inbox_come_again(
    conn: Connection,
    database_dsn: str,
    mosquitto: Broker,
    blocked: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "INBOX_LIMIT", 10)
    agent, signals = FakeAgent(), Signals()
    config = IngestConfig(flush_readings=3)
    with (
        running(database_dsn, mosquitto, signals, config=config, version=3),
        Publisher(mosquitto) as publisher,
    ):
        with blocked():
            publisher.send(agent.birth(), *(agent.floats(float(n)) for n in range(60)))
            wait_until(lambda: signals.value("dropped_messages", "inbox full") > 0, "the inbox overflows")
        publisher.wait_covered(agent)
    assert readings(conn) == [float(n) for n in range(60)]
