"""The publisher with a real outbox and real brokers: Mosquitto, and amqtt for MQTT 3.1.1."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from paho.mqtt import publish as paho_publish
from paho.mqtt import subscribe as paho_subscribe

from deploy.local.broker import Broker
from edge_agent.buffer.records import Applied
from edge_agent.publish import publisher as publishers
from edge_agent.publish import suspects
from protocols import session, topics
from protocols.committed import Committed
from tests.edge_agent.buffer.test_outbox import schema
from tests.support.fake_store import FakeStore
from tests.support.mqtt_responder import MqttResponder
from tests.support.senders import Sender
from tests.support.waiting import wait_until


def test_everything_arrives_once_in_order_and_is_freed(broker: Broker, start: Callable[..., Sender]) -> None:
    with FakeStore(broker.host, broker.port, broker.mqtt_version) as store:
        sender = start(broker).online()
        sender.append(50)
        wait_until(lambda: sender.pending() == 0, "everything committed")
        assert store.reading_count() == sender.appended
        assert set(store.seen.values()) == {1}
        assert [seq for _, seq in store.order] == list(range(1, 52))
        assert sender.signals.redelivered == 0
        online = store.sessions[-1]
        assert online.state == "online"
        assert online.epochs == sender.outbox.stats().result().epochs
        sender.stop()
        wait_until(lambda: store.sessions[-1].state == "offline", "the goodbye")
        assert store.sessions[-1].detail == "stopped"
        assert store.sessions[-1].session == online.session


def test_suspects_that_are_committed_slow_nothing_down_whichever_connection_said_so(tmp_path: Path) -> None:
    sender = Sender(tmp_path / "buffer.sqlite", 1)
    for _ in range(2):
        sender.publisher._suspects.lost([1, 2], 0.0)
    assert sender.publisher._window == 1
    sender.publisher._on_applied(-1, 0.0, Applied((1, 2)))
    assert sender.publisher._window > 1
    sender.stop()


def test_what_rested_is_sent_again_on_a_connection_that_goes_on(
    mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "REST_S", 1.0)
    with FakeStore(mosquitto.host, mosquitto.port):
        sender = Sender(tmp_path / "buffer.sqlite", mosquitto.port)
        sender.append(3)
        for _ in range(suspects.STRIKES):
            sender.publisher._suspects.lost([2], time.monotonic())
        sender.publisher.start()
        wait_until(lambda: sender.pending() == 0, "everything committed")
        sender.stop()
        assert sender.signals.reconnects == 0


def test_births_and_the_session_are_retained_and_data_are_not(mosquitto: Broker, start: Callable[..., Sender]) -> None:
    with FakeStore(mosquitto.host, mosquitto.port):
        sender = start(mosquitto)
        sender.append(3)
        wait_until(lambda: sender.pending() == 0, "everything committed")
        found = paho_subscribe.simple(  # type: ignore[no-untyped-call]
            [topics.birth("acme", "gw1", schema().id()), topics.session("acme", "gw1")],
            msg_count=2,
            hostname=mosquitto.host,
            port=mosquitto.port,
            keepalive=10,
        )
        assert {message.topic for message in found} == {
            topics.birth("acme", "gw1", schema().id()),
            topics.session("acme", "gw1"),
        }
        assert all(message.retain for message in found)
    late = FakeStore(mosquitto.host, mosquitto.port)
    late.answering = False
    with late:
        wait_until(lambda: len(late.births) == 1, "the retained birth")
        assert not late.batches


def test_the_brokers_word_frees_nothing(mosquitto: Broker, start: Callable[..., Sender]) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        store.answering = False
        sender = start(mosquitto).online()
        sender.append(5)
        wait_until(lambda: len(store.seen) == 6, "delivery")
        time.sleep(0.5)
        assert sender.pending() == 6
        store.answering = True
        store.say({sender.outbox.stats().result().epochs[0]})
        wait_until(lambda: sender.pending() == 0, "everything committed")


def test_where_the_broker_is_enough_its_word_frees(broker: Broker, start: Callable[..., Sender]) -> None:
    sender = start(broker, delivery="broker")
    sender.append(20)
    wait_until(lambda: sender.pending() == 0, "everything acknowledged")
    assert sender.signals.published == 21


def test_a_broker_that_forgets_everything_loses_nothing(mosquitto: Broker, start: Callable[..., Sender]) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        # The store takes nothing at first, so all that was sent is with the broker or nowhere.
        store.taking = lambda _: False
        sender = start(mosquitto, resend_after_s=6).online()
        sender.append(20)
        wait_until(lambda: len(store.seen) == 21, "delivery")
        mosquitto.child.kill()
        sender.append(20)
        time.sleep(0.3)
        store.taking = lambda _: True
        mosquitto.start()
        wait_until(lambda: sender.pending() == 0, "everything committed")
        assert store.reading_count() == sender.appended
        assert not store.conflicts
        assert sender.signals.redelivered >= 21
        assert sender.signals.reconnects == 1


def test_nothing_is_given_to_a_client_that_is_not_connected(mosquitto: Broker, start: Callable[..., Sender]) -> None:
    mosquitto.child.kill()
    sender = start(mosquitto)
    sender.append(50)
    time.sleep(0.3)
    assert sender.signals.published == 0
    mosquitto.start()
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        wait_until(lambda: sender.pending() == 0, "everything committed")
        assert store.reading_count() == sender.appended


def test_what_the_store_lost_from_the_broker_is_sent_again_without_a_reconnect(
    mosquitto: Broker, start: Callable[..., Sender]
) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        refused = set(range(2, 12))
        store.taking = lambda key: not (key[1] in refused and store.seen[key] == 1)
        sender = start(mosquitto, resend_after_s=0.3)
        sender.append(20)
        wait_until(lambda: sender.pending() == 0, "everything committed")
        assert store.reading_count() == sender.appended
        assert sender.signals.reconnects == 0
        assert sender.signals.redelivered >= 10


def test_a_store_that_is_down_is_asked_by_one_message_at_a_time(
    mosquitto: Broker, start: Callable[..., Sender]
) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        store.answering = False
        sender = start(mosquitto, resend_after_s=0.2).online()
        sender.append(200)
        started = time.monotonic()
        wait_until(lambda: sender.signals.redelivered >= 5, "questions")
        assert sender.signals.redelivered <= (time.monotonic() - started) / 0.2 + 1
        store.answering = True
        wait_until(lambda: sender.pending() == 0, "everything committed")


def test_windows_bound_what_is_under_way(mosquitto: Broker, start: Callable[..., Sender]) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        store.taking = lambda _: False
        sender = start(mosquitto, window=4, max_uncommitted=30).online()
        sender.append(100)
        wait_until(lambda: len(store.seen) == 30, "as many as allowed")
        time.sleep(0.5)
        assert len(store.seen) == 30
        assert sender.signals.published == 30
        store.taking = lambda _: True
        store.keys |= set(store.seen)
        store.say({sender.outbox.stats().result().epochs[0]})
        wait_until(lambda: sender.pending() == 0, "everything committed")


def test_a_restored_store_gets_again_what_it_lacks(mosquitto: Broker, start: Callable[..., Sender]) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        sender = start(mosquitto)
        sender.append(20)
        wait_until(lambda: sender.pending() == 0, "everything committed")
        epoch = sender.outbox.stats().result().epochs[0]
        first = store.sessions[-1].session
        store.restore({key for key in store.keys if key[1] <= 5})
        # Any message of the new incarnation makes the agent ask what the store has.
        sender.append(1)
        wait_until(lambda: {seq for name, seq in store.keys if name == epoch} == set(range(1, 23)), "all of it again")
        wait_until(lambda: sender.pending() == 0, "everything committed")
        assert all(store.seen[epoch, seq] == 1 for seq in range(1, 6))
        assert all(store.seen[epoch, seq] >= 2 for seq in range(6, 22))
        online = [found for found in store.sessions if found.state == "online"]
        assert online[-1].session != first
        # An orderly goodbye: no last will in between.
        assert all(found.state == "online" for found in store.sessions)


def test_messages_before_the_answer_do_not_make_it_announce_for_ever(
    mosquitto: Broker, start: Callable[..., Sender]
) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        sender = start(mosquitto)
        sender.append(5)
        wait_until(lambda: sender.pending() == 0, "everything committed")
        epoch = sender.outbox.stats().result().epochs[0]
        store.answering = False
        store.restore(set())
        before = len(store.sessions)
        for _ in range(20):
            store.say({epoch})
            time.sleep(0.05)
        assert len(store.sessions) - before == 1
        store.answering = True
        store.say({epoch}, store.sessions[-1].session)
        wait_until(lambda: sender.pending() == 0 and len(store.keys) == 6, "everything again")


def test_what_is_under_way_is_not_sent_twice_when_a_restored_store_answers(
    mosquitto: Broker, start: Callable[..., Sender]
) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        sender = start(mosquitto, resend_after_s=3600).online()
        sender.append(5)
        wait_until(lambda: sender.pending() == 0, "everything committed")
        epoch = sender.outbox.stats().result().epochs[0]
        store.answering = False
        sender.append(10)
        wait_until(lambda: len(store.seen) == 16, "delivery")
        store.restore({(epoch, seq) for seq in range(1, 4)})
        store.say({epoch}, store.sessions[-1].session)
        # 4 to 6 come again, since the restored store lacks them; 7 to 16 are on their way already.
        wait_until(lambda: sum(store.seen.values()) == 19, "what the store lacks")
        time.sleep(0.5)
        assert sum(store.seen.values()) == 19
        assert {seq for (_, seq), times in store.seen.items() if times == 2} == {4, 5, 6}


def test_the_brokers_receive_maximum_holds_for_repetitions_too(
    odd_broker: MqttResponder, start: Callable[..., Sender]
) -> None:
    odd_broker.receive_maximum = 2
    sender = start(odd_broker, resend_after_s=1).online()
    sender.append(6)
    wait_until(lambda: len(odd_broker.published) >= 8, "session, birth and data")
    time.sleep(1.1)
    # Now all are due and the store is heard, while two more may be handed out at any time.
    odd_broker.puback["data"] = odd_broker.puback["birth"] = None
    odd_broker.send(topics.committed("acme", "gw1"), Committed("0" * 32, 1, {}).encode())
    wait_until(lambda: len(odd_broker.withheld) == 2, "repetitions", every_s=0.01)
    sender.append(5)
    most = 0
    deadline = time.monotonic() + 0.4
    while time.monotonic() < deadline:
        most = max(most, len(odd_broker.withheld))
        time.sleep(0.002)
    assert most == 2


def test_the_window_is_used_in_full(odd_broker: MqttResponder, start: Callable[..., Sender]) -> None:
    odd_broker.puback["data"] = None
    sender = start(odd_broker, window=60).online()
    sender.append(100)
    wait_until(lambda: len(odd_broker.withheld) == 60, "as many as allowed")


def test_an_agent_that_dies_leaves_a_last_will(mosquitto: Broker, start: Callable[..., Sender]) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        sender = start(mosquitto)
        wait_until(lambda: bool(store.sessions), "the session")
        online = store.sessions[-1]
        link = sender.publisher._link
        assert link is not None
        held = link._client.socket()
        assert isinstance(held, socket.socket)
        held.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: any(found.state == "offline" for found in store.sessions), "the last will")
        will = next(found for found in store.sessions if found.state == "offline")
        assert (will.session, will.detail) == (online.session, "connection lost")
        assert will.at_us <= online.at_us
        wait_until(lambda: store.sessions[-1].state == "online", "the next session")


def test_two_agents_with_one_buffer_copy_lose_and_double_nothing(
    mosquitto: Broker, start: Callable[..., Sender], tmp_path: Path
) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        store.taking = lambda _: False
        first = start(mosquitto).online()
        first.append(10)
        clone = tmp_path / "clone.sqlite"
        for suffix in ("", "-wal"):
            shutil.copy(f"{tmp_path / 'buffer.sqlite'}{suffix}", f"{clone}{suffix}")
        second = start(mosquitto, clone).online()
        first.append(5)
        second.append(5)
        wait_until(lambda: len(store.seen) >= 1 + 10 + 5 + 1 + 5, "delivery from both")
        store.taking = lambda _: True
        store.keys |= set(store.seen)
        for sender in (first, second):
            store.say(set(sender.outbox.stats().result().epochs))
        wait_until(lambda: first.pending() == second.pending() == 0, "everything committed")
        assert store.reading_count() == 200
        assert not store.conflicts


def test_nonsense_from_the_broker_is_counted_and_ignored(mosquitto: Broker, start: Callable[..., Sender]) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        sender = start(mosquitto)
        wait_until(lambda: bool(store.sessions), "the session")
        for payload in (b"", b"{", b'{"v": 9}', b"\xff\x00"):
            paho_publish.single(
                topics.committed("acme", "gw1"), payload, qos=1, hostname=mosquitto.host, port=mosquitto.port
            )
        wait_until(lambda: sender.signals.discarded == 4, "the nonsense")
        sender.append(3)
        wait_until(lambda: sender.pending() == 0, "everything committed")


# A broker that misbehaves


def test_a_message_that_the_broker_refuses_stays(odd_broker: MqttResponder, start: Callable[..., Sender]) -> None:
    odd_broker.puback["data"] = 0x87
    sender = start(odd_broker, delivery="broker", resend_after_s=0.2)
    sender.append(3)
    wait_until(lambda: sender.signals.refused.total() >= 3, "the refusals")
    assert sender.signals.refused.keys() == {"Not authorized"}
    wait_until(lambda: sender.pending() == 3, "the birth to be freed")
    odd_broker.puback["data"] = 0
    wait_until(lambda: sender.pending() == 0, "another attempt")


@pytest.mark.parametrize(("what", "reason"), [("connack", "Bad user name or password"), ("suback", "Not authorized")])
def test_a_refusal_is_told_once_and_tried_again(
    odd_broker: MqttResponder,
    start: Callable[..., Sender],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    what: str,
    reason: str,
) -> None:
    setattr(odd_broker, what, 0x86 if what == "connack" else 0x87)
    secret = tmp_path / "secret"
    secret.write_text("horse battery\n")
    sender = start(odd_broker, username="gw1", password_file=secret)
    sender.append(1)
    wait_until(lambda: odd_broker.connections >= 3, "more attempts")
    told = [record.message for record in caplog.records if "no connection to the broker" in record.message]
    assert len(told) == 1
    assert reason in told[0]
    assert "horse" not in caplog.text
    assert odd_broker.published == []
    setattr(odd_broker, what, 0 if what == "connack" else 1)
    wait_until(lambda: len(odd_broker.published) >= 3, "session, birth and data")


def test_the_brokers_receive_maximum_is_kept(odd_broker: MqttResponder, start: Callable[..., Sender]) -> None:
    odd_broker.receive_maximum = 3
    odd_broker.puback["data"] = None
    sender = start(odd_broker).online()
    sender.append(20)
    wait_until(lambda: len(odd_broker.withheld) == 3, "as many as allowed")
    time.sleep(0.5)
    assert len(odd_broker.withheld) == 3
    odd_broker.release()
    wait_until(lambda: len(odd_broker.withheld) == 3, "the next ones")


@pytest.mark.parametrize("what", ["connack", "suback"])
def test_a_broker_that_says_nothing_is_left(
    odd_broker: MqttResponder, start: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(publishers, "_HANDSHAKE_S", 0.3)
    setattr(odd_broker, what, None)
    sender = start(odd_broker)
    wait_until(lambda: odd_broker.connections >= 2, "another attempt")
    assert odd_broker.published == []
    sender.stop()


def test_messages_that_are_never_acknowledged_force_a_new_connection(
    odd_broker: MqttResponder, start: Callable[..., Sender]
) -> None:
    odd_broker.puback["data"] = None
    sender = start(odd_broker, resend_after_s=0.3, delivery="broker")
    sender.append(2)
    wait_until(lambda: odd_broker.connections >= 2, "another connection")
    odd_broker.puback["data"] = 0
    wait_until(lambda: sender.pending() == 0, "everything acknowledged")
    assert sender.signals.reconnects >= 1


def test_the_session_record_reads_back(mosquitto: Broker, start: Callable[..., Sender]) -> None:
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        start(mosquitto)
        wait_until(lambda: bool(store.sessions), "the session")
        found = store.sessions[-1]
        assert session.decode(found.encode()) == found
        assert found.software == "edge-agent test"
