"""What a configuration may say of OPC-UA subscriptions."""

from __future__ import annotations

import pytest

from edge_agent.points import OpcUaBus
from protocols.config import ConfigError
from tests.support import edge

SUBSCRIBE = 'mode = "subscribe"'


def bus(connection: str, device: str = "", tag: str = "") -> OpcUaBus:
    made = edge.plan(
        edge.head(),
        edge.opcua("opc.tcp://127.0.0.1:1", extra=connection),
        edge.device("kiln", edge.node("feed", "i=1", extra=tag), connection="dcs", unit_id=None, extra=device),
    ).buses[0]
    assert isinstance(made, OpcUaBus)
    return made


def test_polling_is_the_default_and_a_device_may_differ() -> None:
    assert not bus("").devices[0].subscribed
    assert bus(SUBSCRIBE).devices[0].subscribed
    assert not bus(SUBSCRIBE, device='mode = "poll"').devices[0].subscribed
    assert bus("", device=SUBSCRIBE).devices[0].subscribed


@pytest.mark.parametrize(
    ("connection", "device", "sampling_s"),
    [
        ("publish_interval_s = 2", "", 2.0),
        ("sampling_interval_s = 0.5", "", 0.5),
        ("sampling_interval_s = 0.5", "sampling_interval_s = 0.1", 0.1),
    ],
)
def test_sampling_is_the_devices_the_connections_or_as_often_as_publishing(
    connection: str, device: str, sampling_s: float
) -> None:
    assert bus(f"{SUBSCRIBE}\n{connection}", device).devices[0].tags[0].sampling_s == sampling_s


def test_the_birth_tells_deadband_and_heartbeat() -> None:
    plan = edge.plan(
        edge.head(),
        edge.opcua("opc.tcp://127.0.0.1:1", extra=SUBSCRIBE),
        edge.device(
            "kiln", edge.node("feed", "i=1", extra="deadband = 0.5\nscale = -2"), connection="dcs", unit_id=None
        ),
    )
    [point] = plan.schema.points
    assert point.deadband == 0.5
    assert point.heartbeat_s is not None
    assert point.heartbeat_s <= point.gap_limit_s
    [device] = plan.buses[0].devices
    assert getattr(device.tags[0], "deadband", None) == 0.25


def test_a_share_of_the_nodes_range_is_not_told_as_one_of_the_value() -> None:
    """A subscription's percentage is the server's business; that of polled nodes is the agent's."""
    for connection, told in ((SUBSCRIBE, None), ("", 5)):
        plan = edge.plan(
            edge.head(),
            edge.opcua("opc.tcp://127.0.0.1:1", extra=connection),
            edge.device("kiln", edge.node("feed", "i=1", extra="deadband_percent = 5"), connection="dcs", unit_id=None),
        )
        assert [point.deadband_percent for point in plan.schema.points] == [told]


@pytest.mark.parametrize(
    ("connection", "tag", "message"),
    [
        (SUBSCRIBE, "deadband = 1\ndeadband_percent = 1", "deadband 1, deadband_percent 1; allowed: one of them"),
        (SUBSCRIBE, "deadband = 0", "deadband"),
        (SUBSCRIBE, "deadband_percent = 101", "deadband_percent"),
        (f"{SUBSCRIBE}\nsilence_limit_s = 2", "", "silence_limit_s 2 with publish_interval_s 1; allowed: at least 3"),
        (SUBSCRIBE, "heartbeat_s = 11", "longer than gap_limit_s"),
    ],
)
def test_what_cannot_work_is_refused(connection: str, tag: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bus(connection, tag=tag)
    assert message in str(caught.value)


def test_a_deadband_on_a_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed: on value_type float or int"):
        edge.plan(
            edge.head(),
            edge.opcua("opc.tcp://127.0.0.1:1", extra=SUBSCRIBE),
            edge.device("kiln", edge.node("b", "i=1", "text", "deadband = 1"), connection="dcs", unit_id=None),
        )


@pytest.mark.parametrize("extra", [SUBSCRIBE, "sampling_interval_s = 1"])
def test_subscriptions_on_modbus_are_refused(extra: str) -> None:
    with pytest.raises(ConfigError, match="allowed: on OPC-UA connections only"):
        edge.plan(edge.head(), edge.modbus(1), edge.device("m", edge.register("a", 1), extra=extra))
