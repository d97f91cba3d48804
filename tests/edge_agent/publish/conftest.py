"""Fixtures for tests of the publisher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.broker import Broker, local_broker
from tests.support.mqtt_responder import MqttResponder
from tests.support.senders import Sender


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Sender]]:
    """Starts senders, and stops them at the end."""
    senders: list[Sender] = []

    def make(broker: Broker | MqttResponder, path: Path = tmp_path / "buffer.sqlite", **mqtt: object) -> Sender:
        version = broker.mqtt_version if isinstance(broker, Broker) else 5
        senders.append(Sender(path, broker.port, **{"version": version} | mqtt))
        senders[-1].publisher.start()
        return senders[-1]

    yield make
    for sender in senders:
        sender.stop()


@pytest.fixture
def amqtt(tmp_path: Path) -> Iterator[Broker]:
    """A broker that speaks MQTT 3.1.1 only."""
    made = local_broker(tmp_path, kind="amqtt")
    made.start()
    try:
        yield made
    finally:
        made.child.kill()


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each broker in turn."""
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def odd_broker() -> Iterator[MqttResponder]:
    """A broker that does as the test says."""
    with MqttResponder() as found:
        yield found
