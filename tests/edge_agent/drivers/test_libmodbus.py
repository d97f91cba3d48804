"""The Modbus driver against servers on libmodbus: TCP, serial lines, and serial frames over TCP."""

from __future__ import annotations

import asyncio
import re
import termios
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.__main__ import main
from protocols.quality import Quality
from tests.support import edge
from tests.support.libmodbus import Held, Server, SharedLine, server
from tests.support.modbus_bench import bench

pytestmark = pytest.mark.services

PATIENCE_S = 60.0
BAUDRATE = 38_400
OFTEN = "failures = 1000\nprobe_interval_s = 0.01"


@pytest.fixture
def slave(libmodbus_server: list[str], unused_tcp_port: int, tmp_path: Path) -> Iterator[Server]:
    """A TCP server with all its units; `port` is where."""
    with server(libmodbus_server, tmp_path / "libmodbus.log", "tcp", unused_tcp_port) as found:
        yield found


def device(name: str, unit: int, held: Sequence[Held]) -> str:
    return edge.device(name, *(found.tag() for found in held), unit_id=unit)


def expected(name: str, held: Sequence[Held]) -> dict[str, object]:
    return {f"{name}/{found.name}": found.value for found in held}


async def test_every_table_type_and_order_is_what_libmodbus_holds(slave: Server, unused_tcp_port: int) -> None:
    one, two = slave.held(1), slave.held(2)
    assert {found.table for found in one} == {"holding", "input", "coil", "discrete"}
    assert len({(found.type, found.word_order, found.byte_order) for found in one}) == 31
    parts = edge.head(), edge.modbus(unused_tcp_port), device("one", 1, one), device("two", 2, two)
    async with bench(*parts) as found:
        assert await found.values(0) == expected("one", one)
        assert await found.values(1) == expected("two", two)
        assert expected("", one) != expected("", two)
        assert not found.signals.failures
    assert slave.connections == 1


async def test_a_hole_in_the_registers_costs_only_what_lies_in_it(slave: Server, unused_tcp_port: int) -> None:
    places = (80, 99, 104, 110, 199, 300)
    tags = [edge.register(f"t{place}", place) for place in places]
    tags.append(edge.register("across", 108, "uint32"))
    async with bench(edge.head(), edge.modbus(unused_tcp_port), edge.device("m", *tags)) as found:
        readings = {reading.name: (reading.value, reading.quality) for reading in await found.poll()}
        refused = (None, Quality.BAD_CONFIGURATION)
        assert readings == {
            "m/t80": (0, 0),
            "m/t99": (0, 0),
            "m/t104": refused,
            "m/across": refused,
            "m/t110": (110, 0),
            "m/t199": (199, 0),
            "m/t300": refused,
        }
        asked = found.signals.requests
        assert set(await found.values()) == {"m/t80", "m/t99", "m/t110", "m/t199"}
        assert found.signals.requests - asked <= 4


async def test_every_request_is_one_answer_of_libmodbus(slave: Server, unused_tcp_port: int) -> None:
    tag = edge.register("answers", 98)
    async with bench(edge.head(), edge.modbus(unused_tcp_port), edge.device("m", tag)) as found:
        assert [await found.values() for _ in range(5)] == [{"m/answers": n} for n in range(1, 6)]
        assert found.signals.requests == 5


async def test_units_that_refuse_or_say_nothing_cost_the_others_nothing_but_time(
    slave: Server, unused_tcp_port: int
) -> None:
    units = {"good": 1, "broken": 3, "unreachable": 4, "dead": 9, "other": 2}
    devices = [edge.device(name, edge.register("hot", 19), unit_id=unit) for name, unit in units.items()]
    connection = edge.modbus(unused_tcp_port, extra="timeout_s = 0.2")
    async with bench(edge.head(polling=OFTEN), connection, *devices) as found:
        for turn in range(3):
            qualities: dict[str, int] = {}
            for position in range(len(units)):
                qualities |= await found.qualities(position)
            bad = {
                "broken/hot": Quality.BAD_DEVICE_FAILURE,
                "unreachable/hot": Quality.BAD_TIMEOUT,
                "dead/hot": Quality.BAD_TIMEOUT,
            }
            assert qualities == {"good/hot": 0, "other/hot": 0, **({} if turn else bad)}
    assert slave.connections == 1


async def test_a_server_that_comes_back_is_read_again(slave: Server, unused_tcp_port: int) -> None:
    connection = edge.modbus(unused_tcp_port, extra="timeout_s = 0.5\nreconnect_max_s = 0.1")
    async with bench(edge.head(), connection, edge.device("m", edge.register("hot", 19))) as found:
        assert await found.values() == {"m/hot": 64_999}
        slave.child.kill()
        deadline = time.monotonic() + PATIENCE_S
        seen: dict[str, int] = {}
        while seen != {"m/hot": Quality.BAD_NO_COMMUNICATION} and time.monotonic() < deadline:
            seen = await found.qualities()
        slave.start()
        while seen != {"m/hot": 0} and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            seen = await found.qualities()
        assert seen == {"m/hot": 0}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, str]]:
    """Speed and parity that ports were opened with; pseudo-terminals have no parity, so all else is set."""
    asked: set[tuple[int, str]] = set()
    original = termios.tcsetattr

    def without_parity(port: int, when: int, attributes: list[Any]) -> None:
        flags = attributes[2]
        parity = ("O" if flags & termios.PARODD else "E") if flags & termios.PARENB else "N"
        asked.add((attributes[5], parity))
        attributes[2] = flags & ~(termios.PARENB | termios.PARODD)
        original(port, when, attributes)

    monkeypatch.setattr(termios, "tcsetattr", without_parity)
    return asked


@asynccontextmanager
async def serial_bus(
    program: list[str], folder: Path, kind: str, parity: str, units: Sequence[int]
) -> AsyncIterator[tuple[str, SharedLine, list[Server]]]:
    """The agent's connection to a line on which each unit is a process on libmodbus."""
    async with SharedLine(BAUDRATE) as line:
        with ExitStack() as stack:
            servers = [
                stack.enter_context(
                    server(program, folder / f"unit{unit}.log", "rtu", line.port(), BAUDRATE, parity, unit)
                )
                for unit in units
            ]
            if kind == "port":
                speed = f'baudrate = {BAUDRATE}\nparity = "{parity}"\ntimeout_s = 0.5'
                yield edge.serial(line.port(), extra=speed), line, servers
            else:
                tcp = await line.device_server()
                yield edge.serial_tcp(tcp, extra=f"bytes_per_s = {BAUDRATE / 11:.0f}\ntimeout_s = 1.0"), line, servers


@pytest.mark.parametrize(("kind", "parity"), [("port", "E"), ("port", "O"), ("port", "N"), ("tcp", "E")])
async def test_units_on_one_line_are_read_in_turn(
    libmodbus_server: list[str], tmp_path: Path, opened: set[tuple[int, str]], kind: str, parity: str
) -> None:
    async with serial_bus(libmodbus_server, tmp_path, kind, parity, [1, 2]) as (connection, line, servers):
        one, two = servers[0].held(1), servers[1].held(2)
        async with bench(edge.head(), connection, device("one", 1, one), device("two", 2, two)) as found:
            assert await found.values(0) == expected("one", one)
            assert await found.values(1) == expected("two", two)
            # Again, with each having heard the other's answers.
            assert len(await found.values(0)) == len(one)
            assert len(await found.values(1)) == len(two)
            assert not found.signals.failures
        assert line.collisions == 0
        assert opened == ({(termios.B38400, parity)} if kind == "port" else set())


@pytest.mark.parametrize("kind", ["port", "tcp"])
async def test_a_hole_in_a_serial_unit_costs_only_what_lies_in_it(
    libmodbus_server: list[str], tmp_path: Path, kind: str
) -> None:
    tags = [edge.register(f"t{place}", place) for place in (80, 104, 110)]
    async with serial_bus(libmodbus_server, tmp_path, kind, "N", [1]) as (connection, line, _):
        async with bench(edge.head(), connection, edge.device("m", *tags)) as found:
            assert await found.values() == {"m/t80": 0, "m/t104": None, "m/t110": 110}
            assert dict(found.signals.failures) == {"bad_configuration": 1}
        assert line.collisions == 0


async def test_a_dead_unit_does_not_deafen_the_one_that_is_asked_next(
    libmodbus_server: list[str], tmp_path: Path
) -> None:
    # Each unit on libmodbus waits for the answer of the dead one, and takes the next request for it.
    order = {"one": 1, "dead": 9, "two": 2}
    devices = [edge.device(name, edge.register("hot", 19), unit_id=unit) for name, unit in order.items()]
    async with serial_bus(libmodbus_server, tmp_path, "port", "N", [1, 2]) as (connection, line, servers):
        connection = connection.replace("timeout_s = 0.5", "timeout_s = 0.2")
        async with bench(edge.head(polling=OFTEN), connection, *devices) as found:
            assert await found.values(0) == {"one/hot": 64_999}
            await found.poll(1)
            assert await found.values(2) == {"two/hot": 64_998}
            assert line.collisions == 0
            # A unit that has been silent itself comes back, too.
            servers[1].child.kill()
            assert await found.qualities(2) == {"two/hot": Quality.BAD_TIMEOUT}
            servers[1].start()
            deadline = time.monotonic() + PATIENCE_S
            seen: dict[str, object] = {}
            while not seen and time.monotonic() < deadline:
                await found.poll(1)
                seen = await found.values(2)
            assert seen == {"two/hot": 64_998}


async def probed(capsys: pytest.CaptureFixture[str], folder: Path, *parts: str) -> tuple[int, list[str]]:
    """What the command prints, without times."""
    path = folder / "agent.toml"
    path.write_text("\n".join([edge.head(folder / "buffer.sqlite", 1), *parts]), encoding="utf-8")
    code = await asyncio.to_thread(main, ["probe", str(path)])
    return code, re.sub(r"\d+\.\d ms", "T ms", capsys.readouterr().out).splitlines()


PROBED = [
    "    hot (holding 19 uint16) [fde7]: 64999 degC, good",
    "    cold (holding 18 int16) [fed3]: -301 degC, good",
    "    real (holding 20 float32) [cccd bfac]: -1.350000023841858 degC, good",
    "    hole (holding 104 uint16) [no answer]: no value, bad_configuration",
    "    on (coil 3 bool) [1]: True 1, good",
    "4 of 5 tags are good",
]
PROBED_TAGS = [
    edge.register("hot", 19),
    edge.register("cold", 18, "int16"),
    edge.register("real", 20, "float32", extra='word_order = "little"'),
    edge.register("hole", 104),
    edge.bit("on", 3),
]


@pytest.mark.parametrize("kind", ["modbus-tcp", "port", "tcp"])
async def test_a_probe_shows_what_libmodbus_holds(
    libmodbus_server: list[str], unused_tcp_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "modbus-tcp":
        with server(libmodbus_server, tmp_path / "libmodbus.log", "tcp", unused_tcp_port):
            code, lines = await probed(capsys, tmp_path, edge.modbus(unused_tcp_port), edge.device("m", *PROBED_TAGS))
    else:
        async with serial_bus(libmodbus_server, tmp_path, kind, "N", [1]) as (connection, _, _):
            code, lines = await probed(capsys, tmp_path, connection, edge.device("m", *PROBED_TAGS))
    assert code == 1
    assert lines == ["connection bus: T ms", "  device m: unit_id 1, T ms", *PROBED]
