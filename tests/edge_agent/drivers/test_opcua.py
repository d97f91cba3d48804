"""The OPC-UA driver against a real asyncua server."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asyncua import ua
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from edge_agent.drivers.opcua import OpcUaDriver
from edge_agent.drivers.opcua_values import quality_of, stamp_us, value_of
from edge_agent.points import NodeTag
from protocols.quality import Quality
from protocols.reading import ValueType
from protocols.timebase import US
from tests.support import edge
from tests.support.edge import Seen
from tests.support.plc import JUNE, JUNE_US, Plc, bench

TAGS = [
    edge.node("feed", "ns=2;s=feed"),
    edge.node("count", "ns=2;s=count", "int"),
    edge.node("running", "ns=2;s=running", "bool"),
    edge.node("batch", "ns=2;s=batch", "text"),
]


async def test_values_of_all_types_come_with_the_sources_time(unused_tcp_port: int) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, *TAGS) as found:
        await plc.write("feed", 2.5)
        await plc.write("count", 41, JUNE + timedelta(seconds=1))
        await plc.write("running", False)
        await plc.write("batch", "B12")
        readings = await found.poll()
        assert {name: reading.value for name, reading in readings.items()} == {
            "feed": 2.5,
            "count": 41,
            "running": False,
            "batch": "B12",
        }
        assert readings["feed"].at_us == JUNE_US
        assert readings["count"].at_us == JUNE_US + US
        assert {reading.quality for reading in readings.values()} == {Quality.GOOD}


async def test_without_a_source_time_the_time_of_the_read_will_do(unused_tcp_port: int) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, TAGS[0]) as found:
        await plc.write("feed", 2.5, at=None)
        before = time.time_ns() // 1000 - US
        reading = (await found.poll())["feed"]
        assert before <= reading.at_us <= time.time_ns() // 1000 + US


async def test_the_same_value_with_the_same_time_is_sent_once_until_the_heartbeat(unused_tcp_port: int) -> None:
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, TAGS[0], device="heartbeat_s = 0.3") as found:
        await plc.write("feed", 2.5, at=datetime.now(UTC))
        assert (await found.poll())["feed"].value == 2.5
        assert await found.poll() == {}
        deadline = time.monotonic() + 20
        readings: dict[str, Seen] = {}
        while not readings and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            readings = await found.poll()
        # Now it says that the value still stood when it was read.
        assert readings["feed"].value == 2.5
        assert abs(readings["feed"].at_us - time.time_ns() // 1000) < 5 * US
        await plc.write("feed", 2.5, at=datetime.now(UTC))
        assert "feed" in await found.poll()


async def test_a_status_becomes_the_quality_that_fits(unused_tcp_port: int) -> None:
    expected = {
        StatusCodes.BadSensorFailure: Quality.BAD_DEVICE_FAILURE,
        StatusCodes.UncertainLastUsableValue: Quality.UNCERTAIN_SUBSTITUTED,
        StatusCodes.BadNoCommunication: Quality.BAD_NO_COMMUNICATION,
        StatusCodes.UncertainEngineeringUnitsExceeded: Quality.UNCERTAIN_OUT_OF_RANGE,
        StatusCodes.BadOutOfService: Quality.BAD_EXCEPTION,
        StatusCodes.UncertainSensorNotAccurate: Quality.UNCERTAIN,
    }
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, *TAGS[:2]) as found:
        for n, (status, quality) in enumerate(expected.items()):
            at = JUNE + timedelta(seconds=n)
            await plc.write("feed", 2.5, at, status=status)
            await plc.write("count", n, at)
            readings = await found.poll()
            assert readings["feed"].quality == quality
            assert readings["feed"].value == (None if quality >= Quality.BAD else 2.5)
            assert readings["count"].quality == Quality.GOOD


async def test_a_node_without_a_fitting_value_costs_no_other(unused_tcp_port: int) -> None:
    tags = [
        TAGS[0],
        edge.node("gone", "ns=2;s=gone"),
        edge.node("a", "ns=2;s=batch"),
        edge.node("b", "ns=2;s=feed", "int"),
        edge.node("c", "ns=2;s=count", "bool"),
    ]
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, *tags) as found:
        qualities = {name: reading.quality for name, reading in (await found.poll()).items()}
        nonsense = Quality.BAD_NONSENSE
        assert qualities == {"feed": 0, "gone": Quality.BAD_CONFIGURATION, "a": nonsense, "b": nonsense, "c": nonsense}


async def test_a_server_that_comes_back_is_read_again(unused_tcp_port: int) -> None:
    plc = Plc(unused_tcp_port)
    await plc.start()
    async with bench(plc.endpoint, TAGS[0]) as found:
        assert (await found.poll())["feed"].value == 1.5
        await plc.stop()
        deadline = time.monotonic() + 60
        readings: dict[str, Seen] = {}
        while not readings and time.monotonic() < deadline:
            readings = await found.poll()
            await asyncio.sleep(0.05)
        assert readings["feed"].quality == Quality.BAD_NO_COMMUNICATION
        assert await found.poll() == {}
        await plc.start()
        readings = {}
        while not readings and time.monotonic() < deadline:
            readings = await found.poll()
            await asyncio.sleep(0.05)
        assert readings["feed"].value == 1.5
        assert found.signals.bus_reconnects == 1
        await found.driver.close()
        await plc.stop()


async def test_a_server_that_is_not_there_is_bad_once(unused_tcp_port: int) -> None:
    async with bench(f"opc.tcp://127.0.0.1:{unused_tcp_port}", TAGS[0]) as found:
        assert (await found.poll())["feed"].quality == Quality.BAD_NO_COMMUNICATION
        assert await found.poll() == {}


async def test_a_server_that_accepts_and_says_nothing_holds_nobody_for_long() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with bench(f"opc.tcp://127.0.0.1:{port}", TAGS[0]) as found:
        readings = await asyncio.wait_for(found.poll(), 30)
        assert readings["feed"].quality == Quality.BAD_NO_COMMUNICATION
    server.close()
    for writer in writers:
        writer.close()
    await server.wait_closed()


async def test_reads_are_cut_into_blocks_and_halved_when_the_server_refuses(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [edge.node(f"n{n}", f"ns=2;s={name}") for n, name in enumerate(["feed"] * 10)]
    async with Plc(unused_tcp_port) as plc, bench(plc.endpoint, *many, extra="nodes_per_read = 8") as found:
        sizes: list[int] = []
        read = OpcUaDriver._read

        async def limited(driver: OpcUaDriver, nodes: list[ua.ReadValueId]) -> list[ua.DataValue]:
            sizes.append(len(nodes))
            if len(nodes) > 3:
                raise UaStatusCodeError(StatusCodes.BadTooManyOperations)  # type: ignore[no-untyped-call]
            return await read(driver, nodes)

        monkeypatch.setattr(OpcUaDriver, "_read", limited)
        assert len(await found.poll()) == 10
        assert sizes == [8, 4, 2, 2, 2, 2, 2]


def test_an_overflowed_queue_is_uncertain() -> None:
    assert quality_of(0x00000480) == Quality.UNCERTAIN_OVERFLOW
    assert quality_of(0) == Quality.GOOD


@pytest.mark.parametrize(
    ("value_type", "raw", "value"),
    [
        ("float", 2, 5.0),
        ("float", float("nan"), None),
        ("float", float("inf"), None),
        ("float", True, None),
        ("float", None, None),
        ("float", [1.0], None),
        ("int", 2**63, None),
        ("int", 5, 5),
        ("int", True, None),
        ("int", 1.0, None),
        ("bool", True, True),
        ("bool", 1, None),
        ("text", "a", "a"),
        ("text", "a\0b", None),
        ("text", 5, None),
    ],
)
def test_what_does_not_fit_the_point_is_no_value(value_type: ValueType, raw: object, value: object) -> None:
    scale = 2.0 if value_type == "float" else 1.0
    tag = NodeTag(0, "i=1", value_type, scale, 1.0 if value_type == "float" else 0.0)
    found = value_of(raw, tag)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("source", "server", "expected"),
    [
        (JUNE, None, JUNE_US),
        (None, JUNE, JUNE_US),
        (datetime(2000, 1, 1, 3, tzinfo=UTC), JUNE, JUNE_US),
        (datetime(2000, 1, 1, 3, tzinfo=UTC), datetime(2000, 1, 1, 3, tzinfo=UTC), None),
        (datetime(1970, 1, 1, tzinfo=UTC), None, None),
        (None, None, None),
    ],
)
def test_the_time_of_a_clock_that_was_never_set_is_none(
    source: datetime | None, server: datetime | None, expected: int | None
) -> None:
    made: Any = ua.DataValue
    assert stamp_us(made(ua.Variant(1.5), SourceTimestamp=source, ServerTimestamp=server)) == expected
