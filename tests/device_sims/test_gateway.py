"""Modbus TCP on real sockets, read by clients that share no code with the simulator."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from pymodbus.client import AsyncModbusTcpClient

from device_sims.config import FleetConfig
from device_sims.errors import ServeError
from device_sims.fleet import Fleet
from tests.support import fleets

Start = Callable[[FleetConfig], Awaitable[Fleet]]
UINT32 = AsyncModbusTcpClient.DATATYPE.UINT32
FLOAT64 = AsyncModbusTcpClient.DATATYPE.FLOAT64
FLOAT32 = AsyncModbusTcpClient.DATATYPE.FLOAT32


def frozen(*changes: tuple[str, str]) -> FleetConfig:
    """The small fleet with a clock so slow that it stands, while the kiln runs."""
    return fleets.modbus_only(("speed = 600", "speed = 0.000001"), *changes)


def frame(transaction: int, unit_id: int, pdu: bytes, protocol: int = 0) -> bytes:
    return struct.pack(">HHHB", transaction, protocol, len(pdu) + 1, unit_id) + pdu


def request(function: int, address: int, count: int) -> bytes:
    return struct.pack(">BHH", function, address, count)


async def answer(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    head = await asyncio.wait_for(reader.readexactly(7), 30)
    transaction, _, length, unit_id = struct.unpack(">HHHB", head)
    return transaction, unit_id, await asyncio.wait_for(reader.readexactly(length - 1), 30)


async def connect(fleet: Fleet) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", fleet.gateways[0].port)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_pymodbus_reads_the_true_values(serve: Start) -> None:
    fleet = await serve(frozen())
    moment, column = fleet.now(), fleet.plant.layout.series
    client = AsyncModbusTcpClient("127.0.0.1", port=fleet.gateways[0].port)
    assert await client.connect()
    try:
        found = await client.read_input_registers(801, count=4, device_id=1)
        shown_wh = client.convert_from_registers(found.registers, FLOAT64)
        assert shown_wh == pytest.approx(4_812_345_670.0 + 1000 * moment.total(column["incomer"]), rel=1e-9)
        found = await client.read_input_registers(52, count=2, device_id=3)
        shown_w = client.convert_from_registers(found.registers, FLOAT32)
        assert shown_w == pytest.approx(1000 * moment.rate(column["fans"]), rel=1e-6)
        found = await client.read_holding_registers(8, count=2, device_id=5)
        shown = client.convert_from_registers(found.registers, UINT32, word_order="little")
        assert shown == int(moment.total(column["air"]))
        found = await client.read_holding_registers(0, count=4, device_id=7)
        shown_t = client.convert_from_registers(found.registers, FLOAT64)
        assert shown_t == pytest.approx((99_990 + moment.total(column["clinker"])) % 100_000, abs=1e-3)
        bits = await client.read_discrete_inputs(5, count=1, device_id=7)
        assert bits.bits[0] is True
        refused = await client.read_holding_registers(4000, count=1, device_id=7)
        assert refused.isError()
        assert refused.exception_code == 2
        refused = await client.write_register(1, 5, device_id=7)
        assert refused.exception_code == 1
    finally:
        client.close()


async def test_mbpoll_reads_the_true_values(serve: Start, independent_client: Callable[[str], list[str]]) -> None:
    fleet = await serve(frozen())
    moment, column = fleet.now(), fleet.plant.layout.series

    async def poll(*arguments: str) -> tuple[int, list[float]]:
        port = str(fleet.gateways[0].port)
        command = [*independent_client("mbpoll"), "-m", "tcp", "-0", "-1", "-p", port, *arguments, "127.0.0.1"]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        printed, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        found = re.findall(r"^\[\d+\]:\s+(\S+)", printed.decode(), re.MULTILINE)
        return process.returncode, [float(value) for value in found]

    # Power and energy of an SDM630, float in big order.
    code, shown = await poll("-a", "3", "-t", "3:float", "-B", "-r", "52", "-c", "1")
    assert code == 0
    assert shown == pytest.approx([1000 * moment.rate(column["fans"])], rel=1e-5)
    code, shown = await poll("-a", "3", "-t", "3:float", "-B", "-r", "72", "-c", "1")
    assert code == 0
    assert shown == pytest.approx([1000 + moment.total(column["fans"])], rel=1e-5)
    # An integer with the low register first.
    code, shown = await poll("-a", "5", "-t", "4:int", "-r", "8", "-c", "1")
    assert code == 0
    assert shown == [int(moment.total(column["air"]))]
    code, shown = await poll("-a", "7", "-t", "1", "-r", "5", "-c", "1")
    assert code == 0
    assert shown == [1]
    code, shown = await poll("-a", "3", "-t", "3", "-r", "40000", "-c", "1")
    assert code != 0
    assert shown == []


async def test_pipelined_requests_are_answered_in_order_with_their_own_ids(serve: Start) -> None:
    fleet = await serve(frozen())
    reader, writer = await connect(fleet)
    sent = [(n * 7 % 65_536, 1 + n % 7) for n in range(500)]
    writer.write(b"".join(frame(transaction, unit_id, request(99, 0, 1)) for transaction, unit_id in sent))
    found = [await answer(reader) for _ in sent]
    assert [(transaction, unit_id) for transaction, unit_id, _ in found] == sent
    assert all(pdu == b"\xe3\x01" for _, _, pdu in found)
    await close(writer)


async def test_a_request_that_comes_byte_by_byte_is_answered(serve: Start) -> None:
    fleet = await serve(frozen())
    reader, writer = await connect(fleet)
    for byte in frame(9, 7, request(2, 5, 1)) + frame(10, 7, request(2, 5, 1)):
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    assert await answer(reader) == (9, 7, b"\x02\x01\x01")
    assert await answer(reader) == (10, 7, b"\x02\x01\x01")
    await close(writer)


@pytest.mark.parametrize(
    "nonsense",
    [
        frame(1, 1, request(3, 0, 1), protocol=5),
        struct.pack(">HHHB", 1, 0, 1, 1) + b"\x00",
        struct.pack(">HHHB", 1, 0, 60_000, 1),
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(256)),
    ],
)
async def test_a_malformed_frame_ends_its_connection_and_no_other(serve: Start, nonsense: bytes) -> None:
    fleet = await serve(frozen())
    good_reader, good_writer = await connect(fleet)
    reader, writer = await connect(fleet)
    writer.write(frame(5, 7, request(2, 5, 1)) + nonsense)
    assert await answer(reader) == (5, 7, b"\x02\x01\x01")
    assert await asyncio.wait_for(reader.read(), 30) == b""
    good_writer.write(frame(6, 7, request(2, 5, 1)))
    assert await answer(good_reader) == (6, 7, b"\x02\x01\x01")
    assert fleet.signals.malformed == 1
    await close(writer)
    await close(good_writer)


async def test_an_unknown_unit_is_met_with_silence_or_an_exception(serve: Start) -> None:
    fleet = await serve(frozen())
    reader, writer = await connect(fleet)
    writer.write(frame(1, 77, request(3, 0, 1)) + frame(2, 7, request(2, 5, 1)))
    assert (await answer(reader))[0] == 2
    await close(writer)
    fleet = await serve(frozen(('name = "hall"', 'name = "hall"\nunknown_unit = "exception"')))
    reader, writer = await connect(fleet)
    writer.write(frame(1, 77, request(3, 0, 1)))
    assert await answer(reader) == (1, 77, b"\x83\x0b")
    await close(writer)


async def test_a_client_that_does_not_read_stops_only_itself(serve: Start) -> None:
    fleet = await serve(frozen())
    lazy_reader, lazy_writer = await connect(fleet)
    flood = frame(1, 1, request(4, 1, 70)) * 2000
    before = -1
    while fleet.signals.requests != before:
        before = fleet.signals.requests
        lazy_writer.write(flood)
        await asyncio.sleep(0.05)
    reader, writer = await connect(fleet)
    writer.write(frame(6, 7, request(2, 5, 1)))
    assert await answer(reader) == (6, 7, b"\x02\x01\x01")
    for _ in range(before):
        assert (await answer(lazy_reader))[1] == 1
    await close(writer)
    lazy_writer.transport.abort()
    await asyncio.sleep(0)


async def test_more_connections_than_allowed_are_closed_at_once(serve: Start) -> None:
    fleet = await serve(frozen(('name = "hall"', 'name = "hall"\nmax_connections = 1')))
    reader, writer = await connect(fleet)
    writer.write(frame(1, 7, request(2, 5, 1)))
    await answer(reader)
    second_reader, second_writer = await connect(fleet)
    with suppress(ConnectionError):
        assert await asyncio.wait_for(second_reader.read(), 30) == b""
    writer.write(frame(2, 7, request(2, 5, 1)))
    assert (await answer(reader))[0] == 2
    assert fleet.signals.refused_connections == 1
    await close(second_writer)
    await close(writer)


FAULT = 'name = "water"\nunit_id = 6', 'name = "water"\nunit_id = 6\nfault = { kind = "%s"%s }'


def fault(kind: str, times: str = "") -> tuple[str, str]:
    return FAULT[0], FAULT[1] % (kind, times)


async def test_a_silent_device_stays_silent_and_the_others_answer(serve: Start) -> None:
    fleet = await serve(frozen(fault("silent")))
    reader, writer = await connect(fleet)
    writer.write(frame(1, 6, request(3, 3014, 4)) + frame(2, 7, request(2, 5, 1)))
    assert (await answer(reader))[0] == 2
    assert fleet.signals.unanswered == 1
    await close(writer)


async def test_a_device_can_answer_with_numbers_that_are_none(serve: Start) -> None:
    fleet = await serve(frozen(fault("nan")))
    client = AsyncModbusTcpClient("127.0.0.1", port=fleet.gateways[0].port)
    assert await client.connect()
    try:
        found = await client.read_holding_registers(3014, count=4, device_id=6)
        shown = client.convert_from_registers(found.registers, FLOAT64)
        assert shown != shown
    finally:
        client.close()


async def test_a_device_can_answer_with_a_wrong_length(serve: Start) -> None:
    fleet = await serve(frozen(fault("length")))
    reader, writer = await connect(fleet)
    writer.write(frame(1, 6, request(3, 3014, 4)) + frame(2, 7, request(2, 5, 1)))
    transaction, unit_id, pdu = await answer(reader)
    assert (transaction, unit_id, pdu[:2], len(pdu)) == (1, 6, b"\x03\x08", 2 + 4)
    assert (await answer(reader))[0] == 2
    await close(writer)


@pytest.mark.parametrize(
    ("times", "faulty"),
    [
        (', from = "2024-03-05T11:00+01:00"', True),
        (', from = "2024-03-05T13:00+01:00"', False),
        (', to = "2024-03-05T13:00+01:00"', True),
        (', from = "2024-03-05T10:00+01:00", to = "2024-03-05T11:00+01:00"', False),
    ],
)
async def test_a_fault_holds_in_its_plant_time_only(serve: Start, times: str, faulty: bool) -> None:
    fleet = await serve(frozen(fault("length", times)))
    reader, writer = await connect(fleet)
    writer.write(frame(1, 6, request(3, 3014, 4)))
    assert (len((await answer(reader))[2]) == 6) == faulty
    await close(writer)


async def test_values_move_with_the_plant_clock(serve: Start) -> None:
    fleet = await serve(fleets.modbus_only(("speed = 600", "speed = 36000")))
    reader, writer = await connect(fleet)
    column = fleet.plant.layout.series["incomer"]
    for n in range(20):
        before = fleet.now()
        writer.write(frame(n, 1, request(4, 801, 4)))
        _, _, pdu = await answer(reader)
        after = fleet.now()
        (shown_wh,) = struct.unpack(">d", pdu[2:])
        used = (shown_wh - 4_812_345_670.0) / 1000
        assert before.total(column) - 1e-5 <= used <= after.total(column) + 1e-5
        await asyncio.sleep(0.01)
    await close(writer)


async def test_a_port_that_is_taken_is_named_and_nothing_stays_open(serve: Start) -> None:
    fleet = await serve(frozen())
    port = fleet.gateways[0].port
    second = Fleet(
        frozen(('name = "hall"\nhost = "127.0.0.1"\nport = 0', f'name = "hall"\nhost = "127.0.0.1"\nport = {port}'))
    )
    with pytest.raises(ServeError, match=f"gateway 'hall' can't listen on 127.0.0.1:{port}"):
        await second.start()
