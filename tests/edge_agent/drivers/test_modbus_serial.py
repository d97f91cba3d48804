"""Serial Modbus: against a responder with framing of its own, over a pseudo-terminal and over TCP, and pymodbus."""

from __future__ import annotations

import asyncio
import struct
import termios
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

from edge_agent.drivers.rtu import SerialFramer, checksum
from edge_agent.points import ModbusBus
from protocols.quality import Quality
from tests.support import edge
from tests.support.modbus_bench import Bench, bench
from tests.support.modbus_responder import After, Reply
from tests.support.serial_lines import Asked, PtyLine, SerialUnits, TcpLine, crc, null_modem

ONCE = "failures = 2\nprobe_interval_s = 3600"
AGAIN = "failures = 1000\nprobe_interval_s = 0.01"
LINES = ["port", "tcp"]


@asynccontextmanager
async def line(
    kind: str, handler: Callable[[Asked], Reply], *devices: str, polling: str = ONCE, timeout_s: float = 0.2
) -> AsyncIterator[tuple[Bench, SerialUnits]]:
    if kind == "port":
        async with PtyLine(handler) as port:
            connection = edge.serial(port.port, extra=f"baudrate = 115_200\ntimeout_s = {timeout_s}")
            async with bench(edge.head(polling=polling), connection, *devices) as found:
                yield found, port.units
    else:
        async with TcpLine(handler) as server:
            connection = edge.serial_tcp(server.port, extra=f"timeout_s = {timeout_s}")
            async with bench(edge.head(polling=polling), connection, *devices) as found:
                yield found, server.units
            assert server.connections <= 1


def two_units() -> list[str]:
    return [
        edge.device("dead", edge.register("a", 1), edge.register("b", 2), unit_id=1),
        edge.device("alive", edge.register("a", 1), unit_id=2),
    ]


def only(unit: int, handler: Callable[[Asked], Reply]) -> Callable[[Asked], Reply]:
    return lambda asked: handler(asked) if asked.unit == unit else asked.counting()


async def good(found: Bench, turn: int) -> dict[str, object]:
    """Poll until there are good values."""
    deadline = time.monotonic() + 20
    values: dict[str, object] = {}
    while not values and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        values = {reading.name: reading.value for reading in await found.poll(turn) if reading.value is not None}
    return values


@pytest.mark.parametrize("stopbits", [1, 2])
async def test_units_of_a_real_serial_server_are_read(stopbits: int) -> None:
    words = list(struct.unpack(">8H", struct.pack(">fdI", 1.5, -2.25, 4_000_000_000)))
    tables = (
        [SimData(0, values=[n % 3 == 0 for n in range(20)], datatype=DataType.BITS)],
        [SimData(0, values=[n % 2 == 0 for n in range(20)], datatype=DataType.BITS)],
        [SimData(0, values=words, datatype=DataType.REGISTERS)],
        [SimData(0, values=[7] * 20, datatype=DataType.REGISTERS)],
    )
    tags = [
        edge.register("f32", 0, "float32"),
        edge.register("f64", 2, "float64"),
        edge.register("u32", 6, "uint32"),
        edge.register("missing", 500),
        edge.register("input", 3, table="input"),
        edge.bit("c3", 3),
        edge.bit("d9", 9, "discrete"),
    ]
    with null_modem() as (ours, theirs):
        server = ModbusSerialServer(
            [SimDevice(unit, tables) for unit in (1, 2)],
            port=theirs,
            baudrate=19_200,
            stopbits=stopbits,
        )
        await server.serve_forever(background=True)
        try:
            async with bench(
                edge.head(),
                edge.serial(ours, extra=f"baudrate = 19_200\nstopbits = {stopbits}"),
                edge.device("one", *tags, unit_id=1),
                edge.device("two", *tags[:1], unit_id=2),
            ) as found:
                assert await found.values(0) == {
                    "one/f32": 1.5,
                    "one/f64": -2.25,
                    "one/u32": 4_000_000_000,
                    "one/missing": None,
                    "one/input": 7,
                    "one/c3": True,
                    "one/d9": False,
                }
                assert await found.values(1) == {"two/f32": 1.5}
                assert dict(found.signals.failures) == {"bad_configuration": 1}
        finally:
            await server.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", LINES)
async def test_many_units_share_one_connection(kind: str) -> None:
    devices = [edge.device(f"m{unit}", edge.register("a", unit), unit_id=unit) for unit in range(1, 31)]
    async with line(kind, Asked.counting, *devices) as (found, units):
        for turn in range(30):
            assert await found.values(turn) == {f"m{turn + 1}/a": turn + 1}
        assert [asked.unit for asked in units.asked] == list(range(1, 31))
        assert not units.broken


@pytest.mark.parametrize("kind", LINES)
async def test_a_dead_unit_costs_the_others_one_timeout_per_probe(kind: str) -> None:
    async with line(kind, only(1, lambda _: None), *two_units(), timeout_s=0.1) as (found, units):
        assert await found.qualities(0) == {"dead/a": Quality.BAD_TIMEOUT, "dead/b": Quality.BAD_TIMEOUT}
        for _ in range(20):
            assert await found.poll(0) == []
            assert await found.values(1) == {"alive/a": 1}
            await asyncio.sleep(0.02)
        # Two failures open the circuit; the next probe is an hour away.
        assert sum(asked.unit == 1 for asked in units.asked) == 2


@pytest.mark.parametrize("kind", LINES)
async def test_a_late_answer_of_a_unit_is_not_taken_for_its_next_one(kind: str) -> None:
    """All blocks have one length, so that nothing but time tells the answers apart."""
    timeout_s = 0.1

    def slow(asked: Asked) -> Reply:
        return After(1.6 * timeout_s, asked.counting())

    tags = [edge.register(f"t{n}", 1000 * n) for n in range(1, 5)]
    device = edge.device("dead", *tags, unit_id=1)
    async with line(kind, slow, device, polling=AGAIN, timeout_s=timeout_s) as (found, units):
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            for reading in await found.poll(0):
                assert reading.value is None
            await asyncio.sleep(0.01)
        assert len({asked.address for asked in units.asked}) > 1


@pytest.mark.parametrize("kind", LINES)
async def test_a_late_answer_is_never_taken_for_that_of_another_unit(kind: str) -> None:
    timeout_s = 0.1

    def slow(asked: Asked) -> Reply:
        return After(1.05 * timeout_s, asked.answer([666] * asked.count))

    def handler(asked: Asked) -> Reply:
        return slow(asked) if asked.unit == 1 else After(0.05, asked.counting())

    devices = [
        edge.device("dead", edge.register("a", 1), unit_id=1),
        edge.device("alive", edge.register("a", 1), unit_id=2),
    ]
    async with line(kind, handler, *devices, polling=AGAIN, timeout_s=timeout_s) as (found, units):
        for _ in range(10):
            assert all(reading.value is None for reading in await found.poll(0))
            assert await found.values(1) == {"alive/a": 1}
        assert sum(asked.unit == 1 for asked in units.asked) > 1


GARBAGE = {
    "noise before": lambda asked: bytes([0, 255, asked.unit, 3]) + asked.counting(),
    "much noise": lambda asked: bytes(600) + asked.counting(),
    "noise behind": lambda asked: asked.counting() + bytes([asked.unit, asked.function, 2, 9]),
    "echo of the request": lambda asked: (
        asked.frame(struct.pack(">BHH", asked.function, asked.address, asked.count)) + asked.counting()
    ),
    "a late frame of another unit": lambda asked: asked.answer([666] * asked.count, unit=9) + asked.counting(),
    "a frame with a wrong checksum": lambda asked: asked.answer([666])[:-1] + b"\x00" + asked.counting(),
    "a frame of another length": lambda asked: asked.answer([666] * (asked.count + 3)) + asked.counting(),
    "half a frame": lambda asked: asked.answer([666])[:5] + asked.counting(),
    "byte by byte": lambda asked: [After(0.005 * n, bytes([byte])) for n, byte in enumerate(asked.counting())],
}


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("what", GARBAGE)
async def test_noise_around_an_answer_does_not_hide_it(kind: str, what: str) -> None:
    handler = only(1, GARBAGE[what])
    async with line(kind, handler, *two_units(), timeout_s=2) as (found, units):
        for _ in range(3):
            assert await found.values(0) == {"dead/a": 1, "dead/b": 2}
            assert await found.values(1) == {"alive/a": 1}
        assert not units.broken
        assert not found.signals.failures


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize(
    "reply",
    [
        lambda asked: asked.counting()[:-1],
        lambda asked: asked.counting()[:-1] + b"\x00",
        lambda asked: asked.answer([666] * 3),
        lambda asked: asked.answer([666] * asked.count, unit=7),
        lambda _: bytes(range(256)),
    ],
    ids=["truncated", "wrong checksum", "wrong length", "wrong unit", "garbage"],
)
async def test_what_is_no_answer_spoils_no_later_one(kind: str, reply: Callable[[Asked], bytes]) -> None:
    broken = True

    def handler(asked: Asked) -> Reply:
        return reply(asked) if broken else asked.counting()

    async with line(kind, only(1, handler), *two_units(), polling=AGAIN, timeout_s=0.1) as (found, _):
        assert await found.qualities(0) == {"dead/a": Quality.BAD_TIMEOUT, "dead/b": Quality.BAD_TIMEOUT}
        assert await found.values(1) == {"alive/a": 1}
        broken = False
        assert await good(found, 0) == {"dead/a": 1, "dead/b": 2}


async def test_a_line_that_is_never_silent_is_asked_all_the_same() -> None:
    async with PtyLine(Asked.counting) as port:

        async def babble() -> None:
            while True:
                port.write(b"\x55")
                await asyncio.sleep(0.0005)

        async with bench(
            edge.head(polling=AGAIN),
            edge.serial(port.port, extra="baudrate = 1_200\ntimeout_s = 0.2"),
            edge.device("m", edge.register("a", 1)),
        ) as found:
            assert await found.values() == {"m/a": 1}
            babbling = asyncio.create_task(babble())
            try:
                await asyncio.sleep(0.1)
                async with asyncio.timeout(10):
                    assert await good(found, 0) == {"m/a": 1}
            finally:
                babbling.cancel()


@pytest.mark.parametrize("kind", LINES)
async def test_an_exception_is_told_from_an_answer(kind: str) -> None:
    missing = 13

    def handler(asked: Asked) -> Reply:
        inside = asked.address <= missing < asked.address + asked.count
        return asked.refusal(2) if inside else asked.counting()

    tags = [edge.register(f"t{n}", n) for n in range(20)]
    async with line(kind, handler, edge.device("m", *tags)) as (found, _):
        values = await found.values()
        assert values == {f"m/t{n}": None if n == missing else n for n in range(20)}


async def test_frames_are_apart_by_the_silence_that_the_line_speed_asks_for() -> None:
    times: list[float] = []

    def handler(asked: Asked) -> Reply:
        times.append(time.monotonic())
        return asked.counting()

    tags = [edge.register(f"t{n}", n) for n in range(4)]
    async with PtyLine(handler) as port:
        limits = "limits = { one_field_per_request = true }"
        async with bench(
            edge.head(),
            edge.serial(port.port, extra="baudrate = 300"),
            edge.device("m", *tags, extra=limits + "\npoll_interval_s = 9"),
        ) as found:
            assert await found.values() == {f"m/t{n}": n for n in range(4)}
    # 3.5 characters of 10 bits at 300 Bd; the answer was on the line before that silence began.
    assert all(after - before >= 0.11 for before, after in pairwise(times))


async def test_the_time_on_a_slow_wire_does_not_count_as_silence_of_the_unit() -> None:
    """An answer of 255 bytes takes 2.3 s at 1200 Bd; the time-out is for what the unit adds."""

    def handler(asked: Asked) -> Reply:
        return After(0.6, asked.counting())

    tags = [edge.register(f"t{n}", 4 * n, "int64") for n in range(31)]
    async with PtyLine(handler) as port:
        async with bench(
            edge.head(polling="max_time_uncertainty = 1"),
            edge.serial(port.port, extra="baudrate = 1_200\ntimeout_s = 0.1"),
            edge.device("m", *tags, extra="poll_interval_s = 9"),
        ) as found:
            assert all(quality == Quality.GOOD for quality in (await found.qualities()).values())
        assert len(port.units.asked) == 1


async def test_a_port_that_goes_away_is_bad_and_one_that_is_missing_costs_no_other_bus() -> None:
    async with (
        PtyLine(Asked.counting) as port,
        bench(
            edge.head(polling=AGAIN),
            edge.serial(port.port, extra="timeout_s = 0.1\nreconnect_max_s = 0.05"),
            edge.device("m", edge.register("a", 1)),
        ) as found,
    ):
        assert await found.values() == {"m/a": 1}
        port.unplug()
        deadline = time.monotonic() + 20
        while not found.signals.failures["bad_no_communication"] and time.monotonic() < deadline:
            await found.poll()
            await asyncio.sleep(0.02)
        assert found.signals.failures["bad_no_communication"]


@pytest.mark.parametrize("error", [termios.error(22, "Invalid argument"), ValueError("baudrate"), OSError("gone")])
async def test_a_port_that_cannot_be_opened_is_bad_not_a_mistake_of_ours(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def refuse(_: str, **settings: object) -> None:
        asked.append(settings)
        raise error

    monkeypatch.setattr("serial.serial_for_url", refuse)
    connection = edge.serial("/dev/ttyS0", extra='baudrate = 4_800\nparity = "E"\nstopbits = 2')
    async with bench(edge.head(), connection, edge.device("m", edge.register("a", 1))) as found:
        assert await found.qualities() == {"m/a": Quality.BAD_NO_COMMUNICATION}
    wanted = {"baudrate": 4800, "parity": "E", "stopbits": 2, "bytesize": 8, "exclusive": True}
    assert wanted.items() <= asked[0].items()


async def test_busy_time_is_counted_per_connection() -> None:
    def handler(asked: Asked) -> Reply:
        return After(0.1, asked.counting()) if asked.unit == 2 else None

    async with line("port", handler, *two_units(), timeout_s=0.2) as (found, _):
        await found.poll(1)
        assert found.signals.bus_busy_s["bus"] >= 0.1
        before = found.signals.bus_busy_s["bus"]
        await found.poll(0)
        assert found.signals.bus_busy_s["bus"] - before >= 0.2


def test_the_plan_counts_the_time_on_the_wire() -> None:
    """A hole of 12 registers is cheaper to read than another request on a slow line, one of 60 is not."""

    def requests(hole: int, baudrate: int) -> int:
        plan = edge.plan(
            edge.head(),
            edge.serial("/dev/ttyUSB0", extra=f"baudrate = {baudrate}"),
            edge.device("m", edge.register("a", 0), edge.register("b", hole + 1), extra="poll_interval_s = 5"),
        )
        bus = plan.buses[0]
        assert isinstance(bus, ModbusBus)
        return len(bus.devices[0].requests)

    assert requests(8, 1200) == 1
    assert requests(60, 1200) == 2
    assert requests(60, 115_200) == 1


def framer(unit: int, address: int, count: int) -> SerialFramer:
    made = SerialFramer(DecodePDU(False))
    request = ReadHoldingRegistersRequest(address=address, count=count, dev_id=unit)
    assert made.buildFrame(request)[-2:] == crc(made.buildFrame(request)[:-2])
    return made


@given(
    st.integers(1, 247),
    st.lists(st.integers(0, 65_535), min_size=1, max_size=125),
    st.binary(max_size=300),
    st.binary(max_size=300),
)
def test_an_answer_is_found_in_any_noise(unit: int, registers: list[int], before: bytes, behind: bytes) -> None:
    asked = Asked(unit, 3, 0, len(registers))
    found = framer(unit, 0, len(registers)).handleFrame(before + asked.answer(registers) + behind, unit, 0)
    used, pdu = found
    assert used == len(before + asked.answer(registers) + behind)
    assert pdu is not None
    assert (pdu.dev_id, list(pdu.registers)) == (unit, registers)


@given(st.lists(st.integers(0, 65_535), min_size=1, max_size=20), st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_makes_a_frame_noise(registers: list[int], place: int, change: int) -> None:
    frame = bytearray(Asked(5, 3, 0, len(registers)).answer(registers))
    frame[place % len(frame)] ^= change
    assert framer(5, 0, len(registers)).handleFrame(bytes(frame), 5, 0) == (0, None)


@given(st.binary(max_size=260))
def test_the_checksum_is_that_of_the_specification(body: bytes) -> None:
    assert checksum(body) == crc(body)


def test_bytes_before_any_request_are_dropped() -> None:
    assert SerialFramer(DecodePDU(False)).handleFrame(b"abc", 0, 0) == (3, None)
