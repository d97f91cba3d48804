"""`edge-agent probe` against real sockets: what it shows, its exit codes, and that it leaves no trace."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from asyncua import ua
from asyncua.server.server import Server

from edge_agent.__main__ import main
from tests.support import edge
from tests.support.modbus_responder import Asked, Reply, Responder
from tests.support.serial_lines import Asked as SerialAsked
from tests.support.serial_lines import PtyLine


def agent_file(folder: Path, *parts: str) -> Path:
    path = folder / "agent.toml"
    path.write_text("\n".join([edge.head(folder / "buffer" / "b.sqlite", 1), *parts]), encoding="utf-8")
    return path


async def probed(
    handler: Callable[[Asked], Reply],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *devices: str,
    arguments: tuple[str, ...] = (),
) -> tuple[int, list[str], list[Asked]]:
    """Exit code, printed lines without times, and what was asked for."""
    async with Responder(handler) as responder:
        path = agent_file(folder, edge.modbus(responder.port, extra="timeout_s = 0.3"), *devices)
        code = await asyncio.to_thread(main, ["probe", str(path), *arguments])
        out = re.sub(r"\d+\.\d ms", "T ms", capsys.readouterr().out)
        return code, out.splitlines(), responder.asked


async def test_raw_registers_values_units_and_qualities_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = edge.device(
        "mill",
        edge.register("a", 258),
        edge.register("b", 300, "uint32", extra="scale = 0.5"),
        edge.bit("on", 3),
    )

    def handler(asked: Asked) -> Reply:
        return asked.frame(bytes([1, 1, 1])) if asked.function == 1 else asked.counting()

    code, lines, asked = await probed(handler, tmp_path, capsys, device)
    assert lines == [
        "connection bus: T ms",
        "  device mill: unit_id 1, T ms",
        "    a (holding 258 uint16) [0102]: 258 degC, good",
        "    b (holding 300 uint32) [012c 012d]: 9830550.5 degC, good",
        "    on (coil 3 bool) [1]: True 1, good",
        "3 of 3 tags are good",
    ]
    assert code == 0
    # One cycle: nothing is asked for twice.
    assert len({(one.function, one.address) for one in asked}) == len(asked)


async def test_a_silent_unit_ends_with_one_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def handler(asked: Asked) -> Reply:
        return None if asked.unit == 9 else asked.counting()

    devices = edge.device("mill", edge.register("a", 1)), edge.device("dead", edge.register("a", 1), unit_id=9)
    code, lines, _ = await probed(handler, tmp_path, capsys, *devices)
    assert code == 1
    assert "    a (holding 1 uint16) [0001]: 1 degC, good" in lines
    assert "    a (holding 1 uint16) [no answer]: no value, bad_timeout" in lines
    assert lines[-1] == "1 of 2 tags are good"


async def test_a_refused_register_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def handler(asked: Asked) -> Reply:
        return asked.refusal(2) if asked.address <= 2 < asked.address + asked.count else asked.counting()

    device = edge.device("mill", edge.register("a", 1), edge.register("b", 2), edge.register("c", 3))
    code, lines, _ = await probed(handler, tmp_path, capsys, device)
    assert code == 1
    assert [line.split(": ")[1] for line in lines[2:5]] == [
        "1 degC, good",
        "no value, bad_configuration",
        "3 degC, good",
    ]


async def test_a_block_left_out_by_a_silent_one_is_polled_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def handler(asked: Asked) -> Reply:
        return None if asked.address == 1000 else asked.counting()

    tags = edge.register("a", 1), edge.register("b", 1000), edge.register("c", 2000)
    code, lines, _ = await probed(
        handler, tmp_path, capsys, edge.device("mill", *tags, extra="limits = { max_registers = 10 }")
    )
    assert code == 1
    assert [line.split(": ")[1] for line in lines[2:5]] == ["1 degC, good", "no value, bad_timeout", "2000 degC, good"]


async def test_only_the_device_asked_for_is_polled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices = edge.device("mill", edge.register("a", 1)), edge.device("kiln", edge.register("a", 1), unit_id=2)
    code, lines, asked = await probed(Asked.counting, tmp_path, capsys, *devices, arguments=("--device", "kiln"))
    assert code == 0
    assert {one.unit for one in asked} == {2}
    assert not any("mill" in line for line in lines)


def test_an_unknown_device_is_refused_with_those_that_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = agent_file(tmp_path, edge.modbus(1), edge.device("mill", edge.register("a", 1)))
    assert main(["probe", str(path), "--device", "mil"]) == 2
    assert capsys.readouterr().err == "device 'mil' is unknown; allowed: mill\n"


def test_without_a_connection_everything_is_bad_and_no_buffer_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = agent_file(tmp_path, edge.modbus(1), edge.device("mill", edge.register("a", 1)))
    assert main(["probe", str(path)]) == 1
    assert "a (holding 1 uint16) [no answer]: no value, bad_no_communication" in capsys.readouterr().out
    assert [found.name for found in tmp_path.iterdir()] == ["agent.toml"]


async def test_nodes_of_an_opcua_server_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    endpoint = f"opc.tcp://127.0.0.1:{unused_tcp_port}/plc"
    server = Server()
    await server.init()
    server.set_endpoint(endpoint)
    space = await server.register_namespace("urn:test")
    await server.nodes.objects.add_variable(ua.NodeId.from_string(f"ns={space};s=Feed"), "Feed", 12.5)
    path = agent_file(
        tmp_path,
        edge.opcua(endpoint),
        edge.device("kiln", edge.node("feed", f"ns={space};s=Feed"), connection="dcs", unit_id=None),
        edge.device("none", edge.node("feed", f"ns={space};s=None"), connection="dcs", unit_id=None),
    )
    async with server:
        code = await asyncio.to_thread(main, ["probe", str(path)])
    out = capsys.readouterr().out
    assert code == 1
    assert f"    feed (ns={space};s=Feed): 12.5 degC, good\n" in out
    assert f"    feed (ns={space};s=None): no value, bad_configuration\n" in out


async def test_a_serial_line_is_probed_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with PtyLine(SerialAsked.counting) as port:
        path = agent_file(tmp_path, edge.serial(port.port), edge.device("mill", edge.register("a", 258)))
        code = await asyncio.to_thread(main, ["probe", str(path)])
    assert code == 0
    assert "    a (holding 258 uint16) [0102]: 258 degC, good\n" in capsys.readouterr().out
