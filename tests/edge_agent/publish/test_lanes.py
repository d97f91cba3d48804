"""Live readings go first, and a backlog is drained without making them wait: real outbox, real broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from deploy.local.broker import Broker
from edge_agent.operation.histogram import BOUNDS_S
from edge_agent.publish.pace import Pace
from protocols import topics
from tests.edge_agent.buffer.test_outbox import schema
from tests.support.fake_store import FakeStore, Key
from tests.support.mqtt_responder import MqttResponder
from tests.support.senders import Sender
from tests.support.waiting import wait_until

LONG = 400
"""Readings in a batch that is longer than so many bytes, as those of the backlog are not."""


def test_live_readings_are_committed_promptly_while_thousands_wait_in_the_backlog(
    mosquitto: Broker, start: Callable[..., Sender], tmp_path: Path
) -> None:
    backlog = 1500
    before = Sender(tmp_path / "buffer.sqlite", mosquitto.port)
    before.append(backlog, readings=2)
    before.outbox.close()
    taken: dict[Key, float] = {}

    def slowly(key: Key) -> bool:
        time.sleep(0.001)
        taken[key] = time.monotonic()
        return True

    with FakeStore(mosquitto.host, mosquitto.port) as store:
        store.taking = slowly
        started = time.monotonic()
        sender = start(mosquitto).online()
        epoch = sender.outbox.stats().result(60).epochs[-1]
        appended: dict[Key, float] = {}
        while sender.pending() > 1:
            # Its first record is the birth.
            appended[epoch, len(appended) + 2] = time.monotonic()
            sender.append(1, readings=2)
            time.sleep(0.05)
        took_s = time.monotonic() - started
    waits = [taken[key] - at for key, at in appended.items() if key in taken]
    assert len(waits) > 20
    assert median(waits) < took_s / 10
    assert max(waits) < took_s / 3
    assert not store.conflicts
    assert sum(len(batch) for (name, _), batch in store.batches.items() if name != epoch) == 2 * backlog


def test_where_the_brokers_word_is_enough_its_answers_set_the_pace(
    odd_broker: MqttResponder, start: Callable[..., Sender], tmp_path: Path
) -> None:
    before = Sender(tmp_path / "buffer.sqlite", odd_broker.port)
    before.append(800, readings=1)
    before.outbox.close()
    odd_broker.message_s = 0.002
    sender = start(odd_broker, delivery="broker", window=1000)
    wait_until(lambda: sender.pending() == 0, "everything acknowledged")
    counts = sender.signals.commit_latency.cumulative()
    # Unbounded, 750 messages of 2 ms would be under way.
    assert counts[BOUNDS_S.index(1.0)] > 0.9 * counts[-1]
    assert counts[-1] == 802
    assert 4 < sender.signals.backlog_window < 750


def test_a_birth_goes_before_live_readings_and_these_before_the_backlog(
    odd_broker: MqttResponder, start: Callable[..., Sender], tmp_path: Path
) -> None:
    before = Sender(tmp_path / "buffer.sqlite", odd_broker.port)
    before.append(50, readings=1)
    before.outbox.close()
    odd_broker.receive_maximum = 1
    odd_broker.puback["birth"] = odd_broker.puback["data"] = None
    sender = start(odd_broker, delivery="broker").online()
    wait_until(lambda: len(odd_broker.withheld) == 1, "the first message")
    sender.append(3, readings=LONG)
    while len(odd_broker.seen[-1].topics) < 9:
        odd_broker.release()
        wait_until(lambda: len(odd_broker.withheld) == 1, "the next message", every_s=0.01)
    kinds = [topic.split("/")[4] for topic in odd_broker.seen[-1].topics]
    assert kinds == ["session", "birth", "birth", *["data"] * 6]
    assert [size > LONG for size in odd_broker.seen[-1].sizes[3:]] == [True] * 3 + [False] * 3


def test_a_backlog_has_its_turn_where_live_readings_fill_the_window(
    odd_broker: MqttResponder, start: Callable[..., Sender], tmp_path: Path
) -> None:
    before = Sender(tmp_path / "buffer.sqlite", odd_broker.port)
    before.append(30, readings=1)
    before.outbox.close()
    odd_broker.puback["birth"] = None
    sender = start(odd_broker, delivery="broker", window=2).online()
    wait_until(lambda: len(odd_broker.withheld) == 2, "both births")
    sender.append(200, readings=LONG)
    odd_broker.release()
    wait_until(lambda: len(odd_broker.seen[-1].topics) >= 83, "more messages")
    backlog = [n for n, size in enumerate(odd_broker.seen[-1].sizes[3:83]) if size < LONG]
    # One in eight; fewer, while the outbox has yet to hand it out.
    assert 2 <= len(backlog) <= 12
    wait_until(lambda: sender.pending() == 0, "everything acknowledged")


def test_a_store_that_is_down_is_not_flooded_with_the_backlog(
    mosquitto: Broker, start: Callable[..., Sender], tmp_path: Path
) -> None:
    before = Sender(tmp_path / "buffer.sqlite", mosquitto.port)
    before.append(200, readings=1)
    before.outbox.close()
    with FakeStore(mosquitto.host, mosquitto.port) as store:
        store.answering = False
        sender = start(mosquitto).online()
        wait_until(lambda: len(store.seen) >= 4, "the first of the backlog")
        sender.append(20, readings=1)
        wait_until(lambda: len(store.seen) >= 4 + 20, "live readings")
        time.sleep(0.3)
        assert len(store.seen) < 40
        store.answering = True
        store.say({key[0] for key in store.keys})
        wait_until(lambda: sender.pending() == 0, "everything committed")


def test_a_connection_begins_with_a_small_window(odd_broker: MqttResponder, start: Callable[..., Sender]) -> None:
    odd_broker.puback["data"] = None
    sender = start(odd_broker, delivery="broker", resend_after_s=3600).online()
    sender.append(300, readings=1)
    wait_until(lambda: len(odd_broker.withheld) == 100, "all of the window, since they are live")
    odd_broker.hang_up()
    wait_until(
        lambda: len(odd_broker.seen) == 2 and len(odd_broker.withheld) >= Pace(100).window, "the next connection"
    )
    time.sleep(0.3)
    assert len(odd_broker.withheld) == 4
    assert odd_broker.seen[-1].topics.count(topics.birth("acme", "gw1", schema().id())) == 0
