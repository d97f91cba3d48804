"""Scans of servers that share no code with the agent: on libmodbus and on open62541."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_agent.scanning import explore
from tests.edge_agent.scanning.conftest import Scan
from tests.support.libmodbus import SharedLine, server
from tests.support.open62541 import Server

pytestmark = pytest.mark.services

BAUDRATE = 38_400
SHORT = ("--timeout-s", "0.1", "--pause-ms", "0")


async def test_units_of_libmodbus_are_found_with_their_registers(
    scan: Scan, libmodbus_server: list[str], unused_tcp_port: int, tmp_path: Path
) -> None:
    with server(libmodbus_server, tmp_path / "libmodbus.log", "tcp", unused_tcp_port):
        arguments = ("--units", "1,3,4,6", "--registers", "80-140", "--no-models", "--no-identify", *SHORT, "--json")
        found = await scan("modbus", "--tcp", f"127.0.0.1:{unused_tcp_port}", *arguments)
    document = json.loads(found.out)
    units = {unit["unit_id"]: unit for unit in document["units"]}
    assert sorted(units) == [1, 3]
    readable = {table["table"]: table["readable"] for table in units[1]["tables"]}
    assert readable == {
        "holding": [{"first": 80, "last": 99}, {"first": 110, "last": 140}],
        "input": [{"first": 80, "last": 99}],
    }
    assert units[3]["answered"] == "holding 80: exception 4 (device failure)"
    assert "a gateway says of 1 unit ids that they do not answer it" in document["notes"]


async def test_a_function_that_libmodbus_does_not_know_costs_no_registers(
    scan: Scan, libmodbus_server: list[str], unused_tcp_port: int, tmp_path: Path
) -> None:
    # After function 43 libmodbus throws away for half a second what it is sent.
    with server(libmodbus_server, tmp_path / "libmodbus.log", "tcp", unused_tcp_port):
        arguments = ("--units", "1", "--registers", "80-99", "--table", "holding", "--no-models", *SHORT)
        found = await scan("modbus", "--tcp", f"127.0.0.1:{unused_tcp_port}", *arguments)
    assert found.lines[1:] == ["", "unit 1: holding 80: readable", "  holding: 80 to 99"]


@pytest.mark.parametrize(("kind", "asked"), [("port", "1,7,2,3"), ("tcp", "7,2")])
async def test_units_of_a_line_that_are_asked_right_after_dead_ones_are_found(
    scan: Scan, libmodbus_server: list[str], tmp_path: Path, kind: str, asked: str
) -> None:
    # Each unit on libmodbus waits for the answer of a dead one, and takes the next request for it.
    alive = [unit for unit in (1, 2, 3) if str(unit) in asked]
    async with SharedLine(BAUDRATE) as line:
        with ExitStack() as stack:
            for unit in alive:
                arguments = ("rtu", line.port(), BAUDRATE, "N", unit)
                stack.enter_context(server(libmodbus_server, tmp_path / f"unit{unit}.log", *arguments))
            where = ["--serial", line.port(), "--baudrate", str(BAUDRATE)]
            if kind == "tcp":
                where = ["--rtu-tcp", f"127.0.0.1:{await line.device_server()}"]
            found = await scan("modbus", *where, "--units", asked, *SHORT, "--table", "holding", "--no-models",
                               "--no-identify", "--registers", "98-101", "--json")  # fmt: skip
        assert line.collisions == 0
    units = json.loads(found.out)["units"]
    assert [unit["unit_id"] for unit in units] == alive
    readable = [{"first": 98, "last": 99}]
    # Unit 3 answers everything by an exception.
    assert [unit["tables"][0]["readable"] for unit in units] == [[] if unit == 3 else readable for unit in alive]
    told = re.search(
        r"round 2: asking \d unit ids that said nothing once more, each after 0\.6 s of silence on the line; "
        r"this may take \d s\n(.*)",
        found.told,
        re.DOTALL,
    )
    assert told is not None
    assert "unit 2 answers" in told[1], "told before it began"


async def test_variables_of_open62541_are_found_in_parts(
    scan: Scan, open62541_server: list[str], unused_tcp_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explore, "_MAX_REFERENCES", 20)
    async with Server(open62541_server, unused_tcp_port, tmp_path / "open62541.log", "-r", 30) as found:
        scanned = await scan("opcua", found.endpoint, "--json")
        held = found.held()
    document = json.loads(scanned.out)
    values = {variable["path"]: variable["value"] for variable in document["variables"]}
    assert {f"n{n}" for n in range(300)} <= values.keys()
    assert {name: values[name] for name, (_, value) in held.items() if name.startswith("n")} == {
        name: value for name, (_, value) in held.items() if name.startswith("n")
    }
    assert document["complete"] is True
    assert document["notes"] == []
