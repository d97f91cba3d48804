"""Subscriptions of the OPC-UA driver against a real asyncua server."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from asyncua import ua
from asyncua.client.ua_session import UaSession
from asyncua.server.internal_subscription import InternalSubscription
from asyncua.server.server import Server
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from edge_agent.buffer.batcher import Batcher
from edge_agent.clock import Clock
from edge_agent.drivers.opcua import OpcUaDriver
from edge_agent.polling.schedule import serve
from protocols.quality import Quality
from protocols.timebase import REAL_TIME, US
from tests.support import edge
from tests.support.edge import Seen
from tests.support.plc import JUNE, PATIENCE_S, Bench, Plc, bench
from tests.support.wall import Wall

FAST = """
mode = "subscribe"
publish_interval_s = 0.1
silence_limit_s = 4
reconcile_interval_s = 0.3
"""
FEED = edge.node("feed", "ns=2;s=feed")
COUNT = edge.node("count", "ns=2;s=count", "int")
CARE = 1
"""The turn that looks after the subscription; turn 0 is the group of nodes."""


def has(tag: str, value: object) -> Any:
    return lambda seen: any(reading.name == f"kiln/{tag}" and reading.value == value for reading in seen)


def values(seen: list[Seen], tag: str) -> list[object]:
    return [reading.value for reading in seen if reading.name == f"kiln/{tag}"]


def items(plc: Plc) -> list[Any]:
    """The items of the tags, without the one for the server's clock."""
    return [
        item
        for subscription in plc.subscriptions()
        for item in subscription.monitored_item_srv._monitored_items.values()
        if item.client_handle
    ]


async def settled(found: Bench) -> None:
    """Wait until the clock of the server was heard often enough for its silence to be noticed."""
    subscription = found.driver._subscription
    assert subscription is not None
    await found.care(lambda _: subscription._ticked_at is not None)


async def test_changes_arrive_in_order_without_being_read(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, COUNT, extra=FAST) as found:
        seen = await found.care(lambda seen: has("feed", 1.5)(seen) and has("count", 7)(seen), CARE)
        monkeypatch.setattr(OpcUaDriver, "_read", None)
        for n in range(3):
            await plc.write("feed", 10.0 + n, JUNE + timedelta(seconds=n))
        seen = await found.care(has("feed", 12.0))
        assert [(reading.value, reading.at_us // US) for reading in seen] == [
            (10.0 + n, int(JUNE.timestamp()) + n) for n in range(3)
        ]


async def test_the_subscription_is_asked_for_with_a_short_keep_alive_and_queues(unused_tcp_port: int) -> None:
    device = "sampling_interval_s = 0.02"
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, extra=FAST, device=device) as found:
        await found.care(has("feed", 1.5))
        [subscription] = plc.subscriptions()
        assert subscription.data.RevisedPublishingInterval == 100
        assert subscription.data.RevisedMaxKeepAliveCount == 10
        assert [item.queue_size for item in items(plc)] == [8]


async def test_a_value_that_stands_still_is_confirmed_at_the_heartbeat(unused_tcp_port: int) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, extra=FAST, device="heartbeat_s = 0.5") as found:
        await plc.write("feed", 2.5, datetime.now(UTC))
        seen = await found.care(lambda seen: len(seen) >= 4)
        assert set(values(seen, "feed")) == {2.5}
        times = [reading.at_us for reading in seen]
        assert all(later - earlier >= US // 2 for earlier, later in pairwise(times))
        # It says until when the value is known to have stood, never more.
        assert times[-1] <= time.time_ns() // 1000


async def test_a_value_that_stands_still_is_confirmed_after_the_clock_was_set_back(unused_tcp_port: int) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, extra=FAST, device="heartbeat_s = 0.5") as found:
        await plc.write("feed", 2.5, JUNE)
        await found.care(lambda seen: values(seen, "feed").count(2.5) >= 2)
        clock, wall = found.driver._clock, Wall(-3600)
        clock._wall_ns = wall.ns
        clock.look(None, found.reporter.restart)
        await found.taken()
        set_us = clock.now_us()
        seen = await found.care(lambda seen: any(reading.at_us > set_us for reading in seen))
        assert seen[-1].at_us <= clock.now_us()


async def test_a_node_that_is_not_there_costs_no_other_and_is_found_later(unused_tcp_port: int) -> None:
    tags = [FEED, edge.node("later", "ns=2;s=later"), COUNT]
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, *tags, extra=FAST) as found:
        seen = await found.care(lambda seen: len(seen) >= 3, CARE)
        assert {reading.name: reading.quality for reading in seen} == {
            "kiln/feed": Quality.GOOD,
            "kiln/later": Quality.BAD_CONFIGURATION,
            "kiln/count": Quality.GOOD,
        }
        await plc.add("later", 3.5)
        await found.care(has("later", 3.5), CARE)
        assert len(items(plc)) == 3


async def test_items_that_the_server_loses_are_made_again(unused_tcp_port: int) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, COUNT, extra=FAST) as found:
        await found.care(has("feed", 1.5))
        [subscription] = plc.subscriptions()
        [lost] = [item for item in items(plc) if "feed" in item.read_value_id.NodeId.to_string()]
        subscription.monitored_item_srv.delete_monitored_items([lost.monitored_item_id])
        # Nothing changes meanwhile, so only the comparison can tell.
        await found.care(lambda _: len(items(plc)) == 2, CARE)
        assert found.signals.failures["lost_item"] == 1
        await plc.write("feed", 9.0, datetime.now(UTC))
        await found.care(has("feed", 9.0), CARE)


async def test_an_item_whose_changes_are_not_reported_is_made_again(unused_tcp_port: int) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, COUNT, extra=FAST) as found:
        await found.care(lambda seen: has("feed", 1.5)(seen) and has("count", 7)(seen))
        for item in items(plc):
            if "feed" in item.read_value_id.NodeId.to_string():
                # The server goes on saying that it has the item.
                plc.server.iserver.aspace.delete_datachange_callback(item.callback_handle)
        await plc.write("feed", 9.0, datetime.now(UTC))
        await found.care(has("feed", 9.0), CARE)
        assert found.signals.failures["lost_item"] == 1
        assert len(items(plc)) == 2


async def test_a_subscription_that_the_server_forgets_is_made_again(unused_tcp_port: int) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, extra=FAST) as found:
        await found.care(has("feed", 1.5))
        [subscription] = plc.subscriptions()
        await plc.server.iserver.subscription_service.delete_subscriptions([subscription.data.SubscriptionId])
        await plc.write("feed", 9.0, datetime.now(UTC))
        await found.care(has("feed", 9.0), CARE)


async def test_a_subscription_without_any_sign_of_life_is_made_again(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, extra=FAST) as found:
        await found.care(has("feed", 1.5))

        async def mute(*_: object) -> bool:
            return False

        with monkeypatch.context() as patch:
            patch.setattr(InternalSubscription, "publish_results", mute)
            seen = await found.care(has("feed", None), CARE)
            assert seen[-1].quality == Quality.BAD_NO_COMMUNICATION
        await plc.write("feed", 9.0, datetime.now(UTC))
        await found.care(has("feed", 9.0), CARE)
        assert len(plc.subscriptions()) == 1


async def test_a_subscription_that_only_says_that_it_is_alive_is_made_again(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, extra=FAST) as found:
        await settled(found)
        await found.taken()

        async def nothing(*_: object) -> None:
            return None

        with monkeypatch.context() as patch:
            patch.setattr(InternalSubscription, "enqueue_datachange_event", nothing)
            seen = await found.care(has("feed", None), CARE)
            assert seen[-1].quality == Quality.BAD_NO_COMMUNICATION
        await plc.write("feed", 9.0, datetime.now(UTC))
        await found.care(has("feed", 9.0), CARE)


async def test_after_a_restart_of_the_server_everything_comes_back_with_one_session(unused_tcp_port: int) -> None:
    plc = Plc(unused_tcp_port)
    await plc.start()
    async with bench(plc.endpoint, FEED, COUNT, extra=FAST) as found:
        await found.care(lambda seen: has("feed", 1.5)(seen) and has("count", 7)(seen))
        await plc.stop()
        seen = await found.care(lambda seen: len(seen) >= 2, CARE)
        assert {reading.quality for reading in seen} == {Quality.BAD_NO_COMMUNICATION}
        await plc.start()
        seen = await found.care(lambda seen: has("feed", 1.5)(seen) and has("count", 7)(seen), CARE)
        assert len(plc.subscriptions()) == 1
        assert len(items(plc)) == 2
        await plc.stop()


async def test_a_server_that_hangs_up_is_not_flooded(unused_tcp_port: int) -> None:
    calls: list[float] = []

    def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(time.monotonic())
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", unused_tcp_port)
    endpoint = f"opc.tcp://127.0.0.1:{unused_tcp_port}"
    async with bench(endpoint, FEED, extra=FAST) as found:
        await found.care(lambda _: len(calls) >= 5)
        assert min(later - earlier for earlier, later in pairwise(calls)) >= 0.09
    server.close()
    await server.wait_closed()


async def test_items_are_made_in_the_blocks_that_the_server_allows(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def limit(server: Server) -> None:
        node = server.get_node(
            ua.NodeId(ua.Int32(ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall))
        )
        await node.write_value(ua.Variant(4, ua.VariantType.UInt32))

    many = [edge.node(f"n{n}", "ns=2;s=feed") for n in range(10)]
    sizes = watched(monkeypatch, lambda _: None)
    async with Plc(unused_tcp_port, limit) as plc, bench(plc.endpoint, *many, extra=FAST) as found:
        await found.care(lambda seen: len(seen) >= 10, CARE)
        assert sizes == [1, 4, 4, 2]


async def test_blocks_of_items_are_halved_when_the_server_refuses(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(wanted: list[ua.MonitoredItemCreateRequest]) -> int | None:
        return StatusCodes.BadTooManyOperations if len(wanted) > 3 else None

    many = [edge.node(f"n{n}", "ns=2;s=feed") for n in range(10)]
    sizes = watched(monkeypatch, refuse)
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, *many, extra=f"{FAST}items_per_call = 8") as found:
        await found.care(lambda seen: len(seen) >= 10, CARE)
        assert sizes == [1, 8, 4, 2, 2, 2, 2, 2]


async def test_a_node_that_breaks_the_call_costs_no_other(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(wanted: list[ua.MonitoredItemCreateRequest]) -> int | None:
        poisoned = any("batch" in item.ItemToMonitor.NodeId.to_string() for item in wanted)
        return StatusCodes.BadInternalError if poisoned else None

    watched(monkeypatch, refuse)
    tags = [FEED, edge.node("batch", "ns=2;s=batch", "text"), COUNT]
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, *tags, extra=FAST) as found:
        # It is read instead.
        await found.care(lambda seen: len(seen) >= 3)
        assert len(items(plc)) == 2
        await plc.write("batch", "B12")
        await found.care(has("batch", "B12"))


def watched(monkeypatch: pytest.MonkeyPatch, refuse: Any) -> list[int]:
    """Sizes of the calls that make items; `refuse` may answer some with a status."""
    sizes: list[int] = []
    create = UaSession.create_monitored_items

    async def watch(session: UaSession, parameters: ua.CreateMonitoredItemsParameters) -> Any:
        sizes.append(len(parameters.ItemsToCreate))
        status = refuse(parameters.ItemsToCreate)
        if status is not None:
            raise UaStatusCodeError(status)  # type: ignore[no-untyped-call]
        return await create(session, parameters)

    monkeypatch.setattr(UaSession, "create_monitored_items", watch)
    return sizes


async def test_without_subscriptions_nodes_are_polled(unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise UaStatusCodeError(StatusCodes.BadTooManySubscriptions)  # type: ignore[no-untyped-call]

    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, extra=FAST) as found:
        with monkeypatch.context() as patch:
            patch.setattr(UaSession, "create_subscription", refuse)
            await found.care(has("feed", 1.5))
            await plc.write("feed", 9.0, datetime.now(UTC))
            seen = await found.care(has("feed", 9.0))
            assert {reading.quality for reading in seen} == {Quality.GOOD}
        await found.care(lambda _: bool(items(plc)))
        assert found.signals.bus_reconnects == 0


async def test_the_servers_deadband_is_in_units_of_the_point(unused_tcp_port: int) -> None:
    tag = edge.node("feed", "ns=2;s=feed", extra="deadband = 2\nscale = 10")
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, tag, extra=FAST) as found:
        await found.care(has("feed", 15.0), CARE)
        [item] = items(plc)
        assert (item.filter.DeadbandType, item.filter.DeadbandValue) == (ua.DeadbandType.Absolute, 0.2)
        await plc.write("feed", 1.6, datetime.now(UTC))
        await plc.write("feed", 3.0, datetime.now(UTC))
        seen = await found.care(has("feed", 30.0), CARE)
        assert 16.0 not in values(seen, "feed")
        assert found.driver._subscribed[0].deadband == 0.2


async def test_a_refused_deadband_is_done_without(unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    create = UaSession.create_monitored_items

    async def no_filters(session: UaSession, parameters: ua.CreateMonitoredItemsParameters) -> Any:
        results = await create(session, parameters)
        for wanted, result in zip(parameters.ItemsToCreate, results, strict=True):
            if wanted.RequestedParameters.Filter is not None:
                result.StatusCode = ua.StatusCode(ua.UInt32(StatusCodes.BadMonitoredItemFilterUnsupported))
        return results

    monkeypatch.setattr(UaSession, "create_monitored_items", no_filters)
    tag = edge.node("feed", "ns=2;s=feed", extra="deadband_percent = 5")
    async with (
        Plc(unused_tcp_port) as plc,
        bench(plc.endpoint, tag, FEED.replace('"feed"', '"other"'), extra=FAST) as found,
    ):
        subscription = found.driver._subscription
        assert subscription is not None
        await found.care(lambda _: all(item.server_id is not None for item in subscription._items), CARE)
        await plc.write("feed", 1.51, datetime.now(UTC))
        await found.care(has("feed", 1.51), CARE)


async def test_while_the_disk_is_slow_the_server_keeps_the_values_and_marks_what_it_drops(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    waiting = asyncio.Event()

    async def room(_batcher: Batcher) -> None:
        waiting.set()
        await gate.wait()

    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, extra=FAST) as found:
        await found.care(has("feed", 1.5), CARE)
        with monkeypatch.context() as patch:
            patch.setattr(Batcher, "room", room)
            await plc.write("feed", 100.0, JUNE)
            await waiting.wait()
            for n in range(1, 200):
                # As a server marks a value before which others were dropped; asyncua itself does not.
                await plc.write("feed", 100.0 + n, JUNE + timedelta(seconds=n), 0x480 if n == 199 else 0)
            assert await found.taken() == []
            gate.set()
            seen = await found.care(has("feed", 299.0), CARE)
        # The queue of one item, not two hundred values.
        assert len(seen) < 20
        assert seen[-1].quality == Quality.UNCERTAIN_OVERFLOW


async def test_a_lost_notification_makes_every_value_be_sent_again(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = UaSession.publish
    dropped: list[int] = []

    async def lossy(session: UaSession, acks: Any) -> Any:
        while True:
            response = await publish(session, acks)
            acks = []
            data = response.Parameters.NotificationMessage.NotificationData
            if dropped or not any(item.ClientHandle == 1 for part in data or () for item in part.MonitoredItems):
                return response
            dropped.append(1)

    # Only the hole in the sequence may tell, not the comparison with the server.
    extra = FAST.replace("reconcile_interval_s = 0.3", "reconcile_interval_s = 3600")
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, COUNT, extra=extra) as found:
        await found.care(has("feed", 1.5), CARE)
        monkeypatch.setattr(UaSession, "publish", lossy)
        # The request under way was made before; the second change is the one that is lost.
        await plc.write("count", 8, datetime.now(UTC))
        await found.care(has("count", 8), CARE)
        await plc.write("feed", 9.0, datetime.now(UTC))
        deadline = time.monotonic() + PATIENCE_S
        while not dropped and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await plc.write("count", 9, datetime.now(UTC))
        seen = await found.care(has("feed", 9.0), CARE)
        assert values(seen, "feed")[-1] == 9.0
        assert found.signals.failures["sequence"] == 1


async def test_the_schedule_of_an_agent_looks_after_a_subscription(unused_tcp_port: int) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, FEED, extra=FAST) as found:
        clock = Clock(REAL_TIME, simulated=True)
        task = asyncio.create_task(serve(found.driver, clock, found.batcher, found.signals))
        seen: list[Seen] = []
        deadline = time.monotonic() + PATIENCE_S
        while not items(plc) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await plc.write("feed", 9.0, datetime.now(UTC))
        while not has("feed", 9.0)(seen) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            seen += await found.taken()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert has("feed", 9.0)(seen)
        assert found.signals.failures == {}


async def test_polled_and_subscribed_devices_share_a_connection(unused_tcp_port: int) -> None:
    async with Plc(unused_tcp_port) as plc:
        made = Bench(
            edge.plan(
                edge.head(),
                edge.opcua(plc.endpoint, extra=FAST),
                edge.device("kiln", FEED, connection="dcs", unit_id=None, extra='mode = "poll"'),
                edge.device("mill", COUNT, connection="dcs", unit_id=None),
            )
        )
        try:
            seen = await made.care(lambda seen: len(seen) >= 2)
            assert {reading.name for reading in seen} == {"kiln/feed", "mill/count"}
            assert len(items(plc)) == 1
            assert len(made.driver.turns) == 3
        finally:
            await made.driver.close()
