"""What MQTT libraries and brokers are known to do, each with a test that it does no harm here."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from edge_agent.config import Mqtt, Tls
from edge_agent.drivers import base as backoffs
from edge_agent.publish.link import Link, LinkError
from tests.conftest import _missing
from tests.support.certificates import Authority
from tests.support.mqtt_responder import MqttResponder
from tests.support.processes import held
from tests.support.senders import Sender
from tests.support.services import ServiceError
from tests.support.tls_broker import secure_mosquitto
from tests.support.waiting import wait_until


def test_a_new_connection_carries_nothing_that_an_old_client_has_kept(
    odd_broker: MqttResponder, start: Callable[..., Sender]
) -> None:
    odd_broker.puback["data"] = None
    odd_broker.receive_maximum = 3
    sender = start(odd_broker, delivery="broker", resend_after_s=3600).online()
    sender.append(20)
    wait_until(lambda: len(odd_broker.withheld) == 3, "as many as allowed")
    link = sender.publisher._link
    assert link is not None
    odd_broker.hang_up()
    # What is given to the old client now is not sent by a later one, though paho keeps it.
    wait_until(lambda: not link._client.is_connected(), "the loss")
    for _ in range(3):
        with pytest.raises(LinkError):
            link.publish("metercarbon/1/acme/gw1/data/lost", b"", retain=False)
    wait_until(lambda: len(odd_broker.seen) == 2 and len(odd_broker.withheld) == 3, "as many on the next connection")
    time.sleep(0.3)
    assert len(odd_broker.withheld) == 3
    assert not any(odd_broker.seen[-1].repeated)
    assert odd_broker.seen[-1].topics[0].endswith("/session")
    assert not any(topic.endswith("/lost") for topic in odd_broker.seen[-1].topics)


def test_an_acknowledgement_that_comes_before_publish_returns_counts(
    odd_broker: MqttResponder, start: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Link.publish
    overtaken: list[int] = []

    def slowly(link: Link, topic: str, payload: bytes, *, retain: bool) -> int:
        answered = threading.Event()
        notify = link._notify

        def watch(event: object) -> None:
            notify(event)  # type: ignore[arg-type]
            answered.set()

        link._notify = watch
        mid = publish(link, topic, payload, retain=retain)
        assert answered.wait(60)
        overtaken.append(mid)
        link._notify = notify
        return mid

    monkeypatch.setattr(Link, "publish", slowly)
    sender = start(odd_broker, delivery="broker", resend_after_s=3600)
    sender.append(5)
    wait_until(lambda: sender.pending() == 0, "everything acknowledged")
    # The session, the birth and the data.
    assert len(overtaken) == 7
    assert sender.signals.reconnects == 0
    assert len(odd_broker.seen) == 1


@pytest.mark.parametrize("callback", ["_on_publish", "_on_message", "_on_subscribe"])
def test_a_callback_that_fails_costs_a_connection_and_not_the_publisher(
    odd_broker: MqttResponder,
    start: Callable[..., Sender],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    callback: str,
) -> None:
    found = getattr(Link, callback)
    failures: list[int] = []

    def fail_once(*arguments: object) -> None:
        if not failures:
            failures.append(1)
            raise RuntimeError("a mistake in a callback")
        found(*arguments)

    monkeypatch.setattr(Link, callback, fail_once)
    # No acknowledgement is overdue for an hour: it is the thread's end that is noticed.
    sender = start(odd_broker, resend_after_s=3600)
    sender.append(1)
    if callback == "_on_message":
        sender.online()
        odd_broker.send("metercarbon/1/acme/gw1/committed", b"{}")
    wait_until(lambda: len(odd_broker.seen) >= 2 and sender.signals.mqtt_version == 5, "the next connection")
    assert failures
    assert "a mistake in a callback" in caplog.text
    assert sender.publisher.failure is None


def test_reconnects_are_jittered_and_wait_longer_each_time(
    odd_broker: MqttResponder, start: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    found = backoffs.jittered

    def note(delay_s: float) -> float:
        delays.append(delay_s)
        return found(delay_s)

    monkeypatch.setattr(backoffs, "jittered", note)
    odd_broker.connack = 0x88
    start(odd_broker)
    wait_until(lambda: len(odd_broker.seen) >= 4, "attempts", every_s=0.02)
    assert delays[:3] == [0.2, 0.4, 0.8]


def test_a_broker_that_is_dead_behind_an_open_connection_is_noticed(
    mosquitto: Broker, start: Callable[..., Sender], caplog: pytest.LogCaptureFixture
) -> None:
    # Nothing is published, so no acknowledgement is missed: only the pings are.
    sender = start(mosquitto, keepalive_s=1).online()
    with held(mosquitto.child):
        wait_until(lambda: sender.signals.mqtt_version == 0, "the loss")
    wait_until(lambda: sender.signals.mqtt_version == 5, "another connection")
    assert "Keep alive timeout" in caplog.text


# Messages that are too large


def test_a_message_larger_than_the_broker_takes_is_held_back_and_the_others_go_on(
    odd_broker: MqttResponder, start: Callable[..., Sender], caplog: pytest.LogCaptureFixture
) -> None:
    odd_broker.maximum_packet_size = 2000
    sender = start(odd_broker, delivery="broker").online()
    sender.append(1, readings=5)
    sender.append(1, readings=1000)
    sender.append(5, readings=5)
    wait_until(lambda: sender.pending() == 1, "all but the large one")
    assert max(odd_broker.seen[0].sizes) <= 2000
    assert len(odd_broker.seen) == 1
    assert sender.signals.oversize == 1
    (line,) = [line for line in caplog.messages if "held back" in line]
    assert "/3 with 1000 readings has " in line
    assert "allowed by the broker: 2000" in line
    # It is counted once, and tried again on the next connection, which may be to a broker that takes more.
    odd_broker.hang_up()
    wait_until(lambda: len(odd_broker.seen) == 2 and sender.signals.mqtt_version == 5, "the next connection")
    sender.append(1, readings=5)
    wait_until(lambda: sender.pending() == 1, "all but the large one")
    assert sender.signals.oversize == 1
    odd_broker.maximum_packet_size = None
    odd_broker.hang_up()
    wait_until(lambda: sender.pending() == 0, "the large one too")


def test_mosquitto_is_not_given_more_than_it_takes(tmp_path: Path, start: Callable[..., Sender]) -> None:
    ours = Authority(tmp_path, "ours")
    made = secure_mosquitto(tmp_path, ours.file, ours.issue("broker"), more="max_packet_size 2000\n")
    with ExitStack() as stack:
        try:
            broker = stack.enter_context(made)
        except ServiceError as error:
            _missing(error)
        sender = start(broker, delivery="broker", tls=Tls(ca_file=ours.file)).online()
        sender.append(1, readings=1000)
        sender.append(5, readings=5)
        wait_until(lambda: sender.pending() == 1, "all but the large one")
        assert sender.signals.oversize == 1
        assert sender.signals.reconnects == 0


@pytest.mark.parametrize("version", [3, 5])
def test_a_broker_that_ends_the_connection_over_a_large_message_gets_the_others(
    version: int, odd_broker: MqttResponder, start: Callable[..., Sender], caplog: pytest.LogCaptureFixture
) -> None:
    odd_broker.closes_above = 2000
    sender = start(odd_broker, delivery="broker", version=version).online()
    sender.append(5, readings=5)
    sender.append(1, readings=1000)
    sender.append(5, readings=5)
    wait_until(lambda: sender.pending() == 1, "all but the large one")
    wait_until(lambda: sender.signals.oversize == 1, "the large one to be held back")
    (line,) = [line for line in caplog.messages if "held back" in line]
    assert "/7 with 1000 readings has made the broker end 3 connections" in line
    # The connection holds from now on, and is used in full.
    before = len(odd_broker.seen)
    sender.append(20, readings=5)
    wait_until(lambda: sender.pending() == 1, "what comes later")
    assert len(odd_broker.seen) == before
    assert not sender.publisher._suspects.careful


def test_a_broker_that_never_acknowledges_one_message_gets_the_others(
    odd_broker: MqttResponder, start: Callable[..., Sender]
) -> None:
    odd_broker.ignores_above = 2000
    sender = start(odd_broker, delivery="broker", resend_after_s=0.3).online()
    sender.append(1, readings=1000)
    sender.append(5, readings=5)
    wait_until(lambda: sender.signals.oversize == 1, "the large one to be held back")
    sender.append(5, readings=5)
    wait_until(lambda: sender.pending() == 1, "all but the large one")


def test_connections_that_ended_leave_no_sockets_behind(odd_broker: MqttResponder) -> None:
    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    def connect(port: int) -> Link:
        return Link(Mqtt(host="127.0.0.1", port=port), 5, "gw1", ("will", b""), lambda _: None)

    gc.collect()
    gc.disable()
    try:
        before = descriptors()
        for n in range(10):
            link = connect(odd_broker.port)
            wait_until(lambda n=n: len(odd_broker.seen) > n and odd_broker.seen[n].version == 5, "it", every_s=0.01)  # type: ignore[misc]
            link.close() if n % 2 else link.abandon()
            with pytest.raises(LinkError):
                connect(1)
        del link
        # The broker keeps its ends.
        wait_until(lambda: descriptors() <= before + 10 + 2, "the sockets are closed", 20)
    finally:
        gc.enable()
