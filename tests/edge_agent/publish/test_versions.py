"""MQTT 5, and 3.1.1 where the broker does not take it: the rules alone, and against brokers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest

from deploy.local.broker import Broker
from edge_agent.publish import publisher as publishers
from edge_agent.publish import versions
from edge_agent.publish.versions import TRY_AGAIN_S, Versions
from tests.support.fake_store import FakeStore
from tests.support.mqtt_responder import MqttResponder
from tests.support.senders import Sender
from tests.support.waiting import wait_until


def test_a_refusal_is_believed_and_5_is_tried_again_after_a_while() -> None:
    found = Versions(5, fallback=True)
    assert found.next(0.0) == 5
    assert found.refused(5, 0.0)
    assert found.next(1.0) == 3
    assert found.accepted(3)
    assert found.next(TRY_AGAIN_S - 1) == 3
    assert found.next(TRY_AGAIN_S + 1) == 5
    # Still an old one: known by now, so no more questions.
    assert found.unanswered(5, TRY_AGAIN_S + 1)
    assert found.next(TRY_AGAIN_S + 2) == 3
    assert found.accepted(3)
    assert found.next(2 * TRY_AGAIN_S) == 3


def test_a_broker_that_has_learnt_5_is_spoken_to_in_5() -> None:
    found = Versions(5, fallback=True)
    found.refused(5, 0.0)
    assert found.next(TRY_AGAIN_S + 1) == 5
    assert found.accepted(5)
    assert found.next(TRY_AGAIN_S + 2) == 5


def test_a_broker_that_takes_5_only_by_now_is_not_spoken_to_in_3() -> None:
    found = Versions(5, fallback=True)
    found.refused(5, 0.0)
    assert not found.refused(3, 1.0)
    assert found.next(2.0) == 5


def test_a_closed_connection_is_no_proof() -> None:
    found = Versions(5, fallback=True)
    assert found.unanswered(5, 0.0)
    assert found.next(0.0) == 3
    # Taken, so the broker is there; but does it not speak 5?
    assert not found.accepted(3)
    assert found.rechecking
    assert found.next(0.0) == 5
    assert found.accepted(5)
    assert found.next(1.0) == 5
    assert not found.rechecking


def test_a_broker_that_closes_5_and_takes_3_twice_is_an_old_one() -> None:
    found = Versions(5, fallback=True)
    found.unanswered(5, 0.0)
    found.accepted(3)
    assert found.unanswered(5, 1.0)
    assert found.next(2.0) == 3
    assert found.accepted(3)


def test_a_broker_that_closes_both_is_tried_with_both_in_turn() -> None:
    found = Versions(5, fallback=True)
    tried = []
    for n in range(6):
        tried.append(found.next(n))
        # One after the other at once, then a pause.
        assert found.unanswered(tried[-1], n) == (tried[-1] == 5)
    assert tried == [5, 3, 5, 3, 5, 3]


@pytest.mark.parametrize(("wanted", "fallback"), [(3, True), (3, False), (5, False)])
def test_where_one_version_is_wanted_there_is_no_other(wanted: int, fallback: bool) -> None:
    found = Versions(wanted, fallback=fallback)
    assert not found.refused(wanted, 0.0)
    assert not found.unanswered(wanted, 0.0)
    assert found.next(1.0) == wanted
    assert found.accepted(wanted)


# Against brokers


@pytest.mark.parametrize("how", ["refuse", "refuse in 3.1.1", "close"])
def test_a_broker_that_does_not_take_5_is_spoken_to_in_3(
    odd_broker: MqttResponder, start: Callable[..., Sender], how: Literal["refuse", "refuse in 3.1.1", "close"]
) -> None:
    odd_broker.versions = {4}
    odd_broker.to_other_versions = how
    sender = start(odd_broker, delivery="broker").online()
    assert sender.signals.mqtt_version == 3
    sender.append(3)
    wait_until(lambda: sender.pending() == 0, "everything acknowledged")
    first = [seen.version for seen in odd_broker.seen]
    assert first == ([5, 4, 5, 4] if how == "close" else [5, 4])
    # It is remembered for the next connection.
    odd_broker.hang_up()
    wait_until(lambda: len(odd_broker.seen) > len(first) and sender.signals.mqtt_version == 3, "the next connection")
    assert [seen.version for seen in odd_broker.seen[len(first) :]] == [4]


def test_a_broker_that_learns_5_is_spoken_to_in_5_in_time(
    odd_broker: MqttResponder, start: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "TRY_AGAIN_S", 0.0)
    odd_broker.versions = {4}
    sender = start(odd_broker, delivery="broker")
    # Without a time to remember, each connection begins with 5; the first of them comes to nothing.
    wait_until(lambda: len(odd_broker.seen) >= 3, "attempts")
    odd_broker.versions = {4, 5}
    wait_until(lambda: sender.signals.mqtt_version == 5, "version 5")


def test_amqtt_is_spoken_to_in_3_without_being_told(
    amqtt: Broker, start: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # It mistakes the greeting for the beginning of a longer one, and waits for the rest.
    monkeypatch.setattr(publishers, "_HANDSHAKE_S", 0.7)
    caplog.set_level("INFO")
    with FakeStore(amqtt.host, amqtt.port, version=3) as store:
        sender = start(amqtt, version=5)
        sender.append(5)
        wait_until(lambda: sender.pending() == 0, "everything committed")
        assert sender.signals.mqtt_version == 3
        assert not store.conflicts
    assert "the broker does not take MQTT 5 (no answer to the connection); trying 3.1.1" in caplog.text
    assert "with MQTT 3.1.1" in caplog.text


@pytest.mark.parametrize(("wanted", "level"), [(5, 5), (3, 4)])
def test_where_one_version_is_wanted_the_broker_sees_no_other(
    odd_broker: MqttResponder, start: Callable[..., Sender], caplog: pytest.LogCaptureFixture, wanted: int, level: int
) -> None:
    odd_broker.versions = {4, 5} - {level}
    start(odd_broker, version=wanted, fallback=False)
    wait_until(lambda: len(odd_broker.seen) >= 3, "attempts")
    assert {seen.version for seen in odd_broker.seen} == {level}
    told = [record.message for record in caplog.records if "no connection to the broker" in record.message]
    assert len(told) == 1
    if wanted == 5:
        assert "Unsupported protocol version" in told[0]


def test_a_broker_that_is_down_and_comes_back_is_spoken_to_in_5(
    mosquitto: Broker, start: Callable[..., Sender]
) -> None:
    sender = start(mosquitto, delivery="broker").online()
    for _ in range(2):
        mosquitto.child.kill()
        wait_until(lambda: sender.signals.mqtt_version == 0, "the loss")
        sender.append(1)
        mosquitto.start()
        wait_until(lambda: sender.pending() == 0, "everything acknowledged")
        assert sender.signals.mqtt_version == 5


def test_a_proxy_whose_broker_is_down_does_not_make_it_an_old_one(start: Callable[..., Sender]) -> None:
    # What Docker and load balancers do: they take the connection, and close it.
    with MqttResponder() as broker:
        broker.versions = set()
        broker.to_other_versions = "close"
        sender = start(broker, delivery="broker")
        wait_until(lambda: {seen.version for seen in broker.seen} == {4, 5}, "attempts with both")
        broker.versions = {4, 5}
        sender.online()
        assert sender.signals.mqtt_version == 5
