"""The Modbus driver against a real pymodbus server and against a responder that misbehaves."""

from __future__ import annotations

import asyncio
import struct
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from edge_agent.clock import Clock
from edge_agent.drivers import modbus
from edge_agent.polling.schedule import serve
from protocols.modbus import words
from protocols.quality import Quality
from protocols.timebase import REAL_TIME, TimeBase
from tests.support import edge
from tests.support.modbus_bench import bench
from tests.support.modbus_responder import After, Asked, Reply, Responder


@asynccontextmanager
async def pymodbus_server(port: int) -> AsyncIterator[None]:
    coils = [SimData(0, values=[n % 3 == 0 for n in range(20)], datatype=DataType.BITS)]
    discretes = [SimData(0, values=[n % 2 == 0 for n in range(20)], datatype=DataType.BITS)]
    words = struct.unpack(
        ">20H", struct.pack(">fdqIiHh", 1.5, -2.25, -(2**40), 4_000_000_000, -7, 65_000, -300) + bytes(8)
    )
    holding = [SimData(0, values=list(words), datatype=DataType.REGISTERS)]
    inputs = [SimData(0, values=[7] * 20, datatype=DataType.REGISTERS)]
    server = ModbusTcpServer([SimDevice(1, (coils, discretes, holding, inputs))], address=("127.0.0.1", port))
    await server.serve_forever(background=True)
    try:
        yield
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]


async def test_all_tables_and_types_of_a_real_server_are_read(unused_tcp_port: int) -> None:
    tags = [
        edge.register("f32", 0, "float32"),
        edge.register("f64", 2, "float64"),
        edge.register("i64", 6, "int64"),
        edge.register("u32", 10, "uint32"),
        edge.register("i32", 12, "int32"),
        edge.register("u16", 14, "uint16"),
        edge.register("i16", 15, "int16"),
        edge.register("scaled", 15, "int16"),
        edge.register("input", 3, table="input", extra="scale = 0.5\noffset = 1"),
        edge.bit("c0", 0),
        edge.bit("c1", 1),
        edge.bit("d2", 2, "discrete"),
        edge.bit("d9", 9, "discrete"),
    ]
    async with (
        pymodbus_server(unused_tcp_port),
        bench(edge.head(), edge.modbus(unused_tcp_port), edge.device("m", *tags)) as found,
    ):
        assert await found.values() == {
            "m/f32": 1.5,
            "m/f64": -2.25,
            "m/i64": -(2**40),
            "m/u32": 4_000_000_000,
            "m/i32": -7,
            "m/u16": 65_000,
            "m/i16": -300,
            "m/scaled": -300,
            "m/input": 4.5,
            "m/c0": True,
            "m/c1": False,
            "m/d2": True,
            "m/d9": False,
        }
        assert not found.signals.failures


async def test_an_address_that_a_real_server_lacks_costs_only_its_own_tag(unused_tcp_port: int) -> None:
    tags = [edge.register(f"t{n}", n) for n in (0, 5, 19, 30)]
    async with (
        pymodbus_server(unused_tcp_port),
        bench(edge.head(), edge.modbus(unused_tcp_port), edge.device("m", *tags)) as found,
    ):
        qualities = await found.qualities()
        assert qualities == {"m/t0": 0, "m/t5": 0, "m/t19": 0, "m/t30": Quality.BAD_CONFIGURATION}


def two_units(port: int, polling: str = "failures = 2\nprobe_interval_s = 3600", timeout_s: float = 0.2) -> list[str]:
    return [
        edge.head(polling=polling),
        edge.modbus(port, extra=f"timeout_s = {timeout_s}"),
        edge.device("dead", edge.register("a", 1), edge.register("b", 2), unit_id=1),
        edge.device("alive", edge.register("a", 1), unit_id=2),
    ]


async def test_a_late_answer_is_never_taken_for_a_later_one() -> None:
    late = 0.3

    def handler(asked: Asked) -> Reply:
        if asked.unit == 1:
            return After(late, asked.answer([111] * asked.count))
        return asked.counting()

    async with Responder(handler) as responder, bench(*two_units(responder.port)) as found:
        for _ in range(4):
            await found.poll(0)
            await asyncio.sleep(0.05)
            # The late answer for unit 1 comes while unit 2 is asked, or after.
            for _ in range(5):
                for reading in await found.poll(1):
                    assert reading.value == 1
                await asyncio.sleep(0.03)


async def test_an_answer_with_another_transaction_or_unit_id_is_not_believed() -> None:
    def handler(asked: Asked) -> Reply:
        if asked.unit == 2:
            return asked.counting()
        return [
            asked.answer([666] * asked.count, transaction=(asked.transaction + 1) & 0xFFFF),
            asked.answer([667] * asked.count, unit=9),
        ]

    async with Responder(handler) as responder, bench(*two_units(responder.port)) as found:
        assert await found.qualities(0) == {"dead/a": Quality.BAD_TIMEOUT, "dead/b": Quality.BAD_TIMEOUT}
        assert await found.values(1) == {"alive/a": 1}


async def test_a_right_answer_behind_a_wrong_one_is_found() -> None:
    def handler(asked: Asked) -> Reply:
        wrong = asked.answer([666] * asked.count, transaction=(asked.transaction + 1) & 0xFFFF)
        return wrong + asked.counting()

    async with Responder(handler) as responder, bench(*two_units(responder.port)) as found:
        assert await found.values(1) == {"alive/a": 1}


async def test_a_frame_in_pieces_is_put_together() -> None:
    def handler(asked: Asked) -> Reply:
        frame = asked.counting()
        return [After(0.01 * n, frame[n : n + 1]) for n in range(len(frame))]

    async with Responder(handler) as responder, bench(*two_units(responder.port, timeout_s=2)) as found:
        assert await found.values(1) == {"alive/a": 1}


async def test_a_truncated_frame_spoils_no_later_one() -> None:
    broken = True

    def handler(asked: Asked) -> Reply:
        return asked.counting()[:-1] if broken else asked.counting()

    async with Responder(handler) as responder, bench(*two_units(responder.port)) as found:
        assert await found.qualities(1) == {"alive/a": Quality.BAD_TIMEOUT}
        broken = False
        assert await found.values(1) == {"alive/a": 1}
        assert responder.connections == 1


@pytest.mark.parametrize(
    "pdu",
    [bytes([3, 4, 0, 1, 0, 2]), bytes([3, 1, 7]), bytes([3, 0]), bytes([3, 2, 0]), bytes([4, 2, 0, 1])],
    ids=["too long", "odd", "empty", "short", "other function"],
)
async def test_an_answer_of_the_wrong_shape_is_nonsense(pdu: bytes) -> None:
    shape: bytes | None = pdu

    def handler(asked: Asked) -> Reply:
        return asked.counting() if shape is None else asked.frame(shape)

    async with Responder(handler) as responder, bench(*two_units(responder.port)) as found:
        assert await found.qualities(1) == {"alive/a": Quality.BAD_NONSENSE}
        assert await found.poll(1) == []
        shape = None
        assert await found.values(1) == {"alive/a": 1}
        assert responder.connections == 1


async def test_values_that_are_none_are_nonsense_alone() -> None:
    nan, inf = (
        struct.unpack(">2H", struct.pack(">f", float("nan"))),
        struct.unpack(">2H", struct.pack(">f", float("inf"))),
    )
    tags = [
        edge.register("nan", 0, "float32"),
        edge.register("inf", 2, "float32"),
        edge.register("good", 4, "float32"),
        edge.register("none", 6, "int16", extra="no_value = -32768"),
        edge.register("huge", 7, "uint64"),
        edge.register("zero", 11, "uint16"),
    ]
    registers = [*nan, *inf, 0x3FC0, 0, 0x8000, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0]

    async with (
        Responder(lambda asked: asked.answer(registers)) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", *tags)) as found,
    ):
        readings = {reading.name: (reading.value, reading.quality) for reading in await found.poll()}
        bad = (None, Quality.BAD_NONSENSE)
        assert readings == {
            "m/nan": bad,
            "m/inf": bad,
            "m/good": (1.5, 0),
            "m/none": bad,
            "m/huge": bad,
            "m/zero": (0, 0),
        }
        assert {reading.name for reading in await found.poll()} == {"m/good", "m/zero"}


async def test_a_wide_unsigned_register_of_all_ones_is_no_value() -> None:
    """As a count it would be a whole turn of the register, and an hour's use of billions."""
    tags = [
        edge.register("total", 0, "uint32"),
        edge.register("other", 2, "uint32"),
        edge.register("signed", 4, "int32"),
        edge.register("narrow", 6, "uint16"),
    ]
    async with (
        Responder(lambda asked: asked.answer([0xFFFF, 0xFFFF, 0, 7, 0xFFFF, 0xFFFF, 0xFFFF])) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", *tags)) as found,
    ):
        readings = {reading.name: (reading.value, reading.quality) for reading in await found.poll()}
    assert readings == {
        "m/total": (None, Quality.BAD_NONSENSE),
        "m/other": (7, 0),
        "m/signed": (-1, 0),
        "m/narrow": (65535, 0),
    }


def text(name: str, address: int, length: int) -> str:
    return edge.register(name, address, "string", extra=f"length = {length}").replace(
        'quantity = "temperature"\nunit = "degC"\nkind = "gauge"', 'quantity = "text"\nunit = "1"\nkind = "state"'
    )


def flag(name: str, address: int, bit: int) -> str:
    return edge.bit(name, address, "holding").replace('type = "bool"', f'type = "bit"\nbit = {bit}')


async def test_digits_bits_and_text_are_read_beside_numbers() -> None:
    tags = [
        edge.register("bcd", 0, "bcd16"),
        edge.register("bcd_scaled", 1, "bcd32", extra="scale = 0.5"),
        edge.register("mod10k", 3, "mod10k32", extra='word_order = "little"'),
        flag("running", 5, 0),
        flag("fault", 5, 15),
        text("serial", 6, 3),
        edge.register("float", 9, "float32", extra="scale = 2"),
    ]
    good = [0x1234, 0x0000, 0x0019, 0x162E, 0x04D2, 0x0001, 0x4142, 0x4320, 0x0000, 0x3FC0, 0]
    bad = [0x123A, 0x0000, 0x00FF, 0x2710, 0x0000, 0x8000, 0xFFFF, 0xFFFF, 0xFFFF, 0x3FC0, 0]
    registers = good

    async with (
        Responder(lambda asked: asked.answer(registers)) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", *tags)) as found,
    ):
        values = await found.values()
        assert values == {
            "m/bcd": 1234,
            "m/bcd_scaled": 9.5,
            "m/mod10k": 12_345_678,
            "m/running": True,
            "m/fault": False,
            "m/serial": "ABC",
            "m/float": 3.0,
        }
        assert {name: type(value) for name, value in values.items()} == {
            "m/bcd": int,
            "m/bcd_scaled": float,
            "m/mod10k": int,
            "m/running": bool,
            "m/fault": bool,
            "m/serial": str,
            "m/float": float,
        }
        assert len(responder.asked) == 1
        registers = bad
        readings = {reading.name: (reading.value, reading.quality) for reading in await found.poll()}
        nonsense = (None, Quality.BAD_NONSENSE)
        assert readings == {
            "m/bcd": nonsense,
            "m/bcd_scaled": nonsense,
            "m/mod10k": nonsense,
            "m/running": (False, 0),
            "m/fault": (True, 0),
            "m/serial": nonsense,
            "m/float": (3.0, 0),
        }


async def test_kept_registers_are_as_they_came_also_where_the_value_is_none() -> None:
    tags = [
        edge.register("swapped", 0, "uint32", extra='word_order = "little"\nscale = 0.1'),
        edge.register("nan", 2, "float32"),
    ]
    async with (
        Responder(lambda asked: asked.answer([0x1234, 0xABCD, 0x7FC0, 0x0001])) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", *tags, extra="keep_raw = true")) as found,
    ):
        readings = {reading.name: (reading.value, reading.quality) for reading in await found.poll()}
        assert readings == {
            "m/swapped": (pytest.approx(0xABCD1234 * 0.1), 0),
            "m/swapped.raw": ("1234 abcd", 0),
            "m/nan": (None, Quality.BAD_NONSENSE),
            "m/nan.raw": ("7fc0 0001", 0),
        }
        assert len(responder.asked) == 1


async def test_one_bad_address_costs_no_other_and_is_not_asked_for_again() -> None:
    missing = {13}

    def handler(asked: Asked) -> Reply:
        wanted = range(asked.address, asked.address + asked.count)
        return asked.refusal(2) if missing & set(wanted) else asked.counting()

    tags = [edge.register(f"t{n}", n) for n in range(20)]
    async with (
        Responder(handler) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", *tags)) as found,
    ):
        readings = await found.poll()
        assert {reading.name: reading.value for reading in readings} == {
            f"m/t{n}": None if n in missing else n for n in range(20)
        }
        assert [reading.quality for reading in readings if reading.value is None] == [Quality.BAD_CONFIGURATION]
        learnt = len(responder.asked)
        assert len(await found.poll()) == 19
        again = responder.asked[learnt:]
        assert not any(asked.address <= 13 < asked.address + asked.count for asked in again)
        assert len(again) < 8


async def test_a_refused_range_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modbus, "_REFUSED_RETRY_S", 0.0)
    refusing = True

    def handler(asked: Asked) -> Reply:
        return asked.refusal(2) if refusing and asked.address <= 1 < asked.address + asked.count else asked.counting()

    tags = [edge.register(f"t{n}", n) for n in range(3)]
    async with (
        Responder(handler) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", *tags)) as found,
    ):
        assert (await found.qualities())["m/t1"] == Quality.BAD_CONFIGURATION
        refusing = False
        assert (await found.values())["m/t1"] == 1


async def test_the_unsplit_plan_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modbus, "_REPLAN_S", 0.0)
    refusing = True

    def handler(asked: Asked) -> Reply:
        return asked.refusal(3) if refusing and asked.count > 1 else asked.counting()

    tags = [edge.register(f"t{n}", n) for n in range(4)]
    async with (
        Responder(handler) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", *tags)) as found,
    ):
        assert await found.values() == {f"m/t{n}": n for n in range(4)}
        refusing = False
        responder.asked.clear()
        assert await found.values() == {f"m/t{n}": n for n in range(4)}
        assert len(responder.asked) == 1


@pytest.mark.parametrize(
    ("code", "quality"),
    [
        (1, Quality.BAD_CONFIGURATION),
        (4, Quality.BAD_DEVICE_FAILURE),
        (6, Quality.BAD_EXCEPTION),
        (10, Quality.BAD_NO_COMMUNICATION),
        (11, Quality.BAD_TIMEOUT),
    ],
)
async def test_an_exception_becomes_the_quality_that_fits(code: int, quality: Quality) -> None:
    async with Responder(lambda asked: asked.refusal(code)) as responder, bench(*two_units(responder.port)) as found:
        assert await found.qualities(1) == {"alive/a": quality}


async def test_a_silent_unit_is_bad_once_and_costs_the_others_one_timeout_per_probe() -> None:
    def handler(asked: Asked) -> Reply:
        return None if asked.unit == 1 else asked.counting()

    async with Responder(handler) as responder, bench(*two_units(responder.port)) as found:
        assert await found.qualities(0) == {"dead/a": Quality.BAD_TIMEOUT, "dead/b": Quality.BAD_TIMEOUT}
        for _ in range(10):
            assert await found.poll(0) == []
            assert await found.values(1) == {"alive/a": 1}
        # Two failures open the circuit; the next probe is an hour away.
        assert sum(asked.unit == 1 for asked in responder.asked) == 2
        assert responder.connections == 1


async def test_a_unit_that_answers_again_is_good_again() -> None:
    silent = True

    def handler(asked: Asked) -> Reply:
        return None if silent and asked.unit == 1 else asked.counting()

    parts = two_units(0, polling="failures = 1\nprobe_interval_s = 0.1", timeout_s=0.1)
    async with Responder(handler) as responder:
        parts[1] = edge.modbus(responder.port, extra="timeout_s = 0.1")
        async with bench(*parts) as found:
            assert await found.qualities(0) == {"dead/a": Quality.BAD_TIMEOUT, "dead/b": Quality.BAD_TIMEOUT}
            silent = False
            deadline = time.monotonic() + 20
            values: dict[str, object] = {}
            while not values and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
                values = await found.values(0)
            assert values == {"dead/a": 1, "dead/b": 2}


async def test_many_timeouts_of_one_unit_do_not_cost_the_others_their_connection() -> None:
    def handler(asked: Asked) -> Reply:
        return None if asked.unit == 1 else asked.counting()

    parts = two_units(0, polling="failures = 1000")
    async with Responder(handler) as responder:
        parts[1] = edge.modbus(responder.port, extra="timeout_s = 0.03")
        async with bench(*parts) as found:
            for _ in range(12):
                await found.poll(0)
            assert await found.values(1) == {"alive/a": 1}
            assert responder.connections == 1


async def test_a_dead_unit_with_many_blocks_is_given_up_as_a_whole() -> None:
    parts = [
        edge.head(polling="failures = 2\nprobe_interval_s = 3600"),
        "",
        edge.device(
            "dead", *(edge.register(f"t{n}", n) for n in range(6)), extra="limits = { one_field_per_request = true }"
        ),
    ]
    async with Responder(lambda _: None) as responder:
        parts[1] = edge.modbus(responder.port, extra="timeout_s = 0.05")
        async with bench(*parts) as found:
            assert len(await found.poll()) == 6
            for _ in range(5):
                assert await found.poll() == []
            assert len(responder.asked) == 2


async def test_a_unit_that_answers_now_and_then_is_never_given_up() -> None:
    silent = True

    def handler(asked: Asked) -> Reply:
        return None if silent and asked.unit == 1 else asked.counting()

    parts = two_units(0, polling="failures = 2\nprobe_interval_s = 3600")
    async with Responder(handler) as responder:
        parts[1] = edge.modbus(responder.port, extra="timeout_s = 0.05")
        async with bench(*parts) as found:
            for _ in range(4):
                silent = True
                # Each time it turns bad, that is told, and each time it comes back.
                assert await found.qualities(0) == {"dead/a": Quality.BAD_TIMEOUT, "dead/b": Quality.BAD_TIMEOUT}
                silent = False
                assert await found.values(0) == {"dead/a": 1, "dead/b": 2}


async def test_a_block_without_answer_does_not_silence_the_blocks_that_answer() -> None:
    def handler(asked: Asked) -> Reply:
        return None if asked.address == 0 else asked.counting()

    tags = [edge.register("near", 0), edge.register("far", 40_000)]
    async with (
        Responder(handler) as responder,
        bench(
            edge.head(polling="failures = 2\nprobe_interval_s = 3600"),
            edge.modbus(responder.port, extra="timeout_s = 0.1"),
            edge.device("m", *tags),
        ) as found,
    ):
        assert await found.qualities() == {"m/near": Quality.BAD_TIMEOUT, "m/far": Quality.BAD_TIMEOUT}
        for _ in range(5):
            assert await found.values() == {"m/far": 40_000}
        assert sum(asked.address == 0 for asked in responder.asked) == 2


async def test_a_connection_that_is_refused_is_bad_and_heals() -> None:
    async with Responder(Asked.counting) as responder:
        await responder.stop()
        parts = [
            edge.head(),
            edge.modbus(responder.port, extra="reconnect_max_s = 0.1\ntimeout_s = 0.5"),
            edge.device("m", edge.register("a", 1)),
        ]
        async with bench(*parts) as found:
            assert await found.qualities() == {"m/a": Quality.BAD_NO_COMMUNICATION}
            assert await found.poll() == []
            await responder.listen()
            deadline = time.monotonic() + 20
            values: dict[str, object] = {}
            while not values and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
                values = await found.values()
            assert values == {"m/a": 1}
            # What was never made was not lost either.
            assert found.signals.bus_reconnects == 0


async def test_a_closed_connection_is_made_anew_without_a_bad_reading() -> None:
    async with Responder(Asked.counting) as responder, bench(*two_units(responder.port)) as found:
        assert await found.values(1) == {"alive/a": 1}
        responder.hang_up()
        await asyncio.sleep(0.05)
        assert await found.values(1) == {"alive/a": 1}
        assert responder.connections == 2
        assert found.signals.bus_reconnects == 1


async def test_a_connection_lost_in_a_request_is_bad_for_that_device_only() -> None:
    def handler(asked: Asked) -> Reply:
        return After(0.0, None) if asked.unit == 1 else asked.counting()

    async with Responder(handler) as responder, bench(*two_units(responder.port)) as found:
        quality = Quality.BAD_NO_COMMUNICATION
        assert await found.qualities(0) == {"dead/a": quality, "dead/b": quality}
        deadline = time.monotonic() + 20
        values: dict[str, object] = {}
        while not values and time.monotonic() < deadline:
            values = {r.name: r.value for r in await found.poll(1) if r.value is not None}
            await asyncio.sleep(0.05)
        assert values == {"alive/a": 1}


async def test_a_connection_on_which_nothing_answers_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modbus, "_SILENT_S", 0.0)
    silent = True

    def handler(asked: Asked) -> Reply:
        return None if silent else asked.counting()

    parts = two_units(0, polling="failures = 1000", timeout_s=0.05)
    async with Responder(handler) as responder:
        parts[1] = edge.modbus(responder.port, extra="timeout_s = 0.05\nreconnect_max_s = 0.01")
        async with bench(*parts) as found:
            for _ in range(3):
                await found.poll(1)
            silent = False
            deadline = time.monotonic() + 20
            values: dict[str, object] = {}
            while not values and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
                values = await found.values(1)
            assert values == {"alive/a": 1}
            assert responder.connections == 2


async def test_a_reading_is_stamped_in_the_middle_of_its_own_request() -> None:
    def handler(asked: Asked) -> Reply:
        return After(0.2, asked.counting())

    tags = [edge.register("near", 0), edge.register("far", 40_000)]
    async with (
        Responder(handler) as responder,
        bench(
            edge.head(polling="max_time_uncertainty = 1"), edge.modbus(responder.port), edge.device("m", *tags)
        ) as found,
    ):
        before = time.time_ns() // 1000
        times = {reading.name: reading.at_us for reading in await found.poll()}
        after = time.time_ns() // 1000
        first, second = times["m/near"], times["m/far"]
        assert before < first < second < after
        # Two requests of at least 0.2 s each: their middles are at least that far apart.
        assert second - first >= 200_000
        assert first - before >= 100_000
        assert after - second >= 100_000


async def test_a_request_that_takes_too_long_for_its_interval_has_an_uncertain_time() -> None:
    def handler(asked: Asked) -> Reply:
        return After(0.1, asked.counting())

    fast = TimeBase(1_600_000_000_000_000, 1, 3600.0)
    async with Responder(handler) as responder:
        parts = [
            edge.head(),
            edge.modbus(responder.port),
            edge.device("m", edge.register("a", 1), extra="poll_interval_s = 60\ngap_limit_s = 900"),
        ]
        async with bench(*parts, timebase=fast) as found:
            readings = await found.poll()
            assert [(reading.value, reading.quality) for reading in readings] == [(1, Quality.UNCERTAIN_TIME)]
            assert found.signals.uncertain_times == 1
        async with bench(*parts) as found:
            assert await found.qualities() == {"m/a": Quality.GOOD}


async def test_pauses_that_a_device_needs_are_kept() -> None:
    times: list[float] = []

    def handler(asked: Asked) -> Reply:
        times.append(time.monotonic())
        return asked.counting()

    limits = "limits = { pause_between_requests_ms = 150, one_field_per_request = true }"
    tags = [edge.register(f"t{n}", n) for n in range(3)]
    async with (
        Responder(handler) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", *tags, extra=limits)) as found,
    ):
        assert await found.values() == {"m/t0": 0, "m/t1": 1, "m/t2": 2}
        assert len(times) == 3
        assert all(after - before >= 0.15 for before, after in pairwise(times))


async def test_a_connection_is_closed_after_each_poll_where_a_device_wants_that() -> None:
    limits = "limits = { close_after_poll = true }"
    tags = [edge.register("near", 0), edge.register("far", 40_000)]
    async with (
        Responder(Asked.counting) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", *tags, extra=limits)) as found,
    ):
        for polls in range(1, 4):
            assert await found.values() == {"m/near": 0, "m/far": 40_000}
            assert responder.connections == polls
            assert not found.driver._client.connected
        # That is no trouble of the line, so it is not counted as such.
        assert found.signals.bus_reconnects == 0
        assert not found.signals.failures


async def test_coils_are_read_from_zero_where_a_device_wants_that() -> None:
    def handler(asked: Asked) -> Reply:
        return asked.frame(bytes([1, 2, 0b0100_0000, 0b10])) if asked.address == 0 else asked.refusal(2)

    tags = [edge.bit("c6", 6), edge.bit("c7", 7), edge.bit("c9", 9)]
    limits = "limits = { coils_from_zero = true }"
    async with (
        Responder(handler) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", *tags, extra=limits)) as found,
    ):
        assert await found.values() == {"m/c6": True, "m/c7": False, "m/c9": True}
        assert [(asked.address, asked.count) for asked in responder.asked] == [(0, 10)]


async def test_an_unchanged_value_is_sent_at_the_heartbeat_and_a_step_stays_a_step() -> None:
    value = 5

    async with (
        Responder(lambda asked: asked.answer([value])) as responder,
        bench(
            edge.head(), edge.modbus(responder.port), edge.device("m", edge.register("a", 1), extra="heartbeat_s = 9")
        ) as found,
    ):
        assert [reading.value for reading in await found.poll()] == [5]
        assert await found.poll() == []
        assert await found.poll() == []
        value = 6
        readings = await found.poll()
        assert [reading.value for reading in readings] == [5, 6]
        assert readings[0].at_us < readings[1].at_us


def test_pymodbus_is_one_exact_version() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    assert {one for one in wanted if one.startswith("pymodbus")} == {f"pymodbus=={version('pymodbus')}"}


async def test_a_request_without_answer_is_sent_once_a_poll() -> None:
    async with (
        Responder(lambda _: None) as responder,
        bench(
            edge.head(polling="failures = 1000\nprobe_interval_s = 0.01"),
            edge.modbus(responder.port, extra="timeout_s = 0.05"),
            edge.device("m", edge.register("a", 1)),
        ) as found,
    ):
        for polls in range(1, 4):
            await found.poll()
            assert len(responder.asked) == polls


async def test_one_request_at_a_time_is_on_a_connection() -> None:
    answer_s = 0.02
    asked_at: list[float] = []

    def handler(asked: Asked) -> Reply:
        asked_at.append(time.monotonic())
        return After(answer_s, asked.counting())

    devices = [
        edge.device(f"m{unit}", edge.register("a", unit), unit_id=unit, extra=f"poll_interval_s = {0.2 + 0.01 * unit}")
        for unit in range(1, 9)
    ]
    async with (
        Responder(handler) as responder,
        bench(edge.head(), edge.modbus(responder.port), *devices) as found,
    ):
        clock = Clock(REAL_TIME, simulated=True)
        task = asyncio.create_task(serve(found.driver, clock, found.batcher, found.signals))
        deadline = time.monotonic() + 20
        while len({asked.unit for asked in responder.asked}) < 8 and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert {asked.unit for asked in responder.asked} == set(range(1, 9))
        assert all(later - earlier > 0.9 * answer_s for earlier, later in pairwise(asked_at))
        assert responder.connections == 1


async def test_a_decode_plan_is_compiled_once_not_at_every_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []
    original = words.compile_decoder

    def counted(layout: Sequence[words.Place], registers: int) -> Callable[[bytes], words.Values]:
        compiled.append(registers)
        return original(layout, registers)

    monkeypatch.setattr(words, "compile_decoder", counted)
    async with (
        Responder(Asked.counting) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", edge.register("a", 1))) as found,
    ):
        for _ in range(5):
            assert await found.values() == {"m/a": 1}
    assert len(compiled) == 1


async def test_a_counter_is_sent_as_the_device_shows_it_whatever_it_does() -> None:
    # A transient zero, a turn of the register, a reset: what they mean is decided where the accounts are made.
    shown = [4_294_967_000, 0, 4_294_967_100, 12, 5_000, 0, 7]
    left = iter(shown)

    def handler(asked: Asked) -> Reply:
        return asked.answer(struct.unpack(">2H", struct.pack(">I", next(left))))

    tag = (
        edge.register("total", 1, "uint32").replace('"gauge"', '"counter"').replace('"temperature"', '"active_energy"')
    )
    tag = tag.replace('"degC"', '"kWh"') + 'modulus = 4_294_967_296.0\nmedium = "electricity"\n'
    async with (
        Responder(handler) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", tag)) as found,
    ):
        readings = [reading for _ in shown for reading in await found.poll()]
        assert [reading.value for reading in readings] == shown
        assert {reading.quality for reading in readings} == {Quality.GOOD}


async def test_a_device_is_left_alone_for_a_while_after_connecting() -> None:
    answered: list[float] = []

    def handler(asked: Asked) -> Reply:
        answered.append(time.monotonic() - connecting)
        return asked.counting()

    limits = "limits = { pause_after_connect_ms = 300 }"
    async with (
        Responder(handler) as responder,
        bench(edge.head(), edge.modbus(responder.port), edge.device("m", edge.register("a", 1), extra=limits)) as found,
    ):
        connecting = time.monotonic()
        for _ in range(2):
            assert await found.values() == {"m/a": 1}
        assert answered[0] >= 0.3
        responder.hang_up()
        connecting = time.monotonic()
        deadline = connecting + 20
        while len(answered) < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            await found.poll()
        assert answered[2] >= 0.3


@pytest.mark.parametrize("protocol", ["tcp", "serial-tcp", "serial"])
async def test_by_default_no_pause_between_attempts_is_longer_than_30_s(protocol: str) -> None:
    connection = {
        "tcp": edge.modbus(1),
        "serial-tcp": edge.serial_tcp(1),
        "serial": edge.serial("/dev/ttyUSB0"),
    }[protocol]
    async with bench(edge.head(), connection, edge.device("m", edge.register("a", 1))) as found:
        assert found.driver._settings.reconnect_max_s <= 30
        # The client's own attempts, with their doubling pauses, are off.
        assert found.driver._client.comm_params.reconnect_delay == 0
