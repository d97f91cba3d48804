"""The OPC-UA server, read by asyncua's client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, timedelta
from typing import Any

import pytest
from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.uaerrors import UaStatusCodeError

from device_sims.config import FleetConfig
from device_sims.errors import ServeError
from device_sims.fleet import Fleet
from tests.support import fleets

Start = Callable[[FleetConfig], Awaitable[Fleet]]
EPOCH = ua.DateTime(1970, 1, 1, tzinfo=UTC)


def client(fleet: Fleet) -> Client:
    return Client(f"opc.tcp://127.0.0.1:{fleet.servers[0].port}")


def at_us(value: ua.DataValue) -> int:
    assert value.SourceTimestamp is not None
    since: timedelta = value.SourceTimestamp - EPOCH
    return since // timedelta(microseconds=1)


def content(value: ua.DataValue) -> Any:
    assert value.Value is not None
    return value.Value.Value


async def test_value_and_source_time_come_from_the_same_moment(serve: Start) -> None:
    fleet = await serve(fleets.small())
    column = fleet.plant.layout.series["clinker"]
    async with client(fleet) as connection:
        nodes = [
            connection.get_node(f"ns=2;s=kiln.{name}") for name in ("clinker_total", "clinker_rate", "line.running")
        ]
        for _ in range(5):
            total, rate, running = [await node.read_data_value() for node in nodes]
            moment = fleet.plant.at(at_us(total))
            assert content(total) == 1000.0 + moment.total(column)
            assert content(rate) == fleet.plant.at(at_us(rate)).rate(column)
            assert content(running) is fleet.plant.at(at_us(running)).running(0)
            await asyncio.sleep(0.03)


async def test_variables_are_found_by_browsing(serve: Start) -> None:
    fleet = await serve(fleets.small())
    async with client(fleet) as connection:
        assert (await connection.get_namespace_array())[2] == "urn:metercarbon:sim:small"
        path = ["2:dcs", "2:kiln", "2:line", "2:running"]
        node = await connection.nodes.objects.get_child(path)
        assert node.nodeid.Identifier == "kiln.line.running"
        assert await node.read_data_type_as_variant_type() == ua.VariantType.Boolean
        endpoints = await connection.get_endpoints()
        assert [endpoint.SecurityMode for endpoint in endpoints] == [ua.MessageSecurityMode.None_]


async def test_a_subscription_sees_each_tick(serve: Start) -> None:
    fleet = await serve(fleets.small())
    seen: list[tuple[int, float]] = []

    class Handler:
        def datachange_notification(self, _node: Any, value: float, data: Any) -> None:
            seen.append((at_us(data.monitored_item.Value), value))

    async with client(fleet) as connection:
        subscription = await connection.create_subscription(20, Handler())
        await subscription.subscribe_data_change(connection.get_node("ns=2;s=kiln.clinker_total"))
        async with asyncio.timeout(60):
            while len(seen) < 10:
                await asyncio.sleep(0.02)
        await subscription.delete()
    column = fleet.plant.layout.series["clinker"]
    assert [at for at, _ in seen] == sorted({at for at, _ in seen})
    for at, value in seen:
        assert value == 1000.0 + fleet.plant.at(at).total(column)


async def test_clients_cannot_write(serve: Start) -> None:
    fleet = await serve(fleets.small())
    async with client(fleet) as connection:
        node = connection.get_node("ns=2;s=kiln.clinker_total")
        with pytest.raises(UaStatusCodeError):
            await node.write_value(1.0)


async def test_a_tick_in_plant_time_follows_the_clock(serve: Start) -> None:
    fleet = await serve(fleets.small(("tick_ms = 20", "tick_plant_s = 30"), ("speed = 600", "speed = 3000")))
    assert fleet.servers[0]._tick_s == pytest.approx(0.01)
    before = fleet.signals.ticks
    async with asyncio.timeout(60):
        while fleet.signals.ticks < before + 5:
            await asyncio.sleep(0.01)


async def test_a_total_with_modulus_starts_again_from_zero(serve: Start) -> None:
    fleet = await serve(fleets.small(("start = 1_000.0", "start = 95.0\nmodulus = 100")))
    async with client(fleet) as connection:
        value = await connection.get_node("ns=2;s=kiln.clinker_total").read_data_value()
    made = fleet.plant.at(at_us(value)).total(fleet.plant.layout.series["clinker"])
    assert made > 5
    assert content(value) == (95.0 + made) % 100


async def test_a_port_that_is_taken_is_named_and_nothing_stays_open(serve: Start) -> None:
    fleet = await serve(fleets.small())
    port = fleet.servers[0].port
    second = Fleet(fleets.small(("port = 0\ntick_ms", f"port = {port}\ntick_ms")))
    with pytest.raises(ServeError, match=f"server 'dcs' can't listen on 127.0.0.1:{port}"):
        await second.start()
    assert second.gateways[0]._server is None
