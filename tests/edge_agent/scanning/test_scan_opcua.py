"""`edge-agent scan opcua` against a real asyncua server with a plant in it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.user_managers import UserManager

from edge_agent.points import OpcUaBus
from tests.edge_agent.scanning.browsed import LINES, MILLS, PER_MILL, VARIABLES, PlantServer
from tests.edge_agent.scanning.conftest import Check, Scan
from tests.support import edge
from tests.support.plc import Bench

MILL = "Plant/Line2/Mill3"


@pytest.fixture(scope="module")
def server() -> Iterator[PlantServer]:
    """One server for all tests, in a thread of its own: it takes seconds to make."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    found = PlantServer(free_port())
    try:
        asyncio.run_coroutine_threadsafe(found.start(), loop).result(60)
        try:
            yield found
        finally:
            asyncio.run_coroutine_threadsafe(found.stop(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def plant(server: PlantServer) -> Iterator[PlantServer]:
    yield server
    server.forget()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def test_all_variables_are_found_once_in_spite_of_loops(scan: Scan, plant: PlantServer) -> None:
    found = await scan("opcua", plant.endpoint, "--json")
    document = json.loads(found.out)
    assert found.code == 0
    assert document["complete"] is True
    assert len(document["variables"]) == VARIABLES
    assert len({variable["node"] for variable in document["variables"]}) == VARIABLES
    assert document["namespaces"][2] == "urn:test:plant"
    by_path = {variable["path"]: variable for variable in document["variables"]}
    assert by_path[f"{MILL}/Active power"] == {
        "path": f"{MILL}/Active power",
        "node": "ns=2;s=L2M3.Active power",
        "type": "Double",
        "value": 301.5,
        "status": "Good",
        "unit": "kW",
        "access": "r",
    }
    assert by_path["Plant/Odd/Stamp"]["type"] == "DateTime"
    assert by_path["Plant/Odd/Curve"]["type"] == "Double[]"


async def test_the_table_shows_path_node_type_access_value_and_unit(scan: Scan, plant: PlantServer) -> None:
    found = await scan("opcua", plant.endpoint)
    lines = [" ".join(line.split()) for line in found.lines]
    assert lines[0] == f"{VARIABLES} variables among 294 nodes of {plant.endpoint}"
    assert "ns=2 is urn:test:plant" in lines
    assert f"{MILL}/Bearing ns=2;s=L2M3.Bearing Double r 61.5 °C" in lines
    assert f"{MILL}/Running ns=2;s=L2M3.Running Boolean r True" in lines
    assert "Plant/Odd/In&/Out ns=2;s=odd.In/Out Double r 3.5 bar" in lines
    shown = [line.split("/")[2] for line in found.lines if line.startswith("Plant/Line1/")]
    assert list(dict.fromkeys(shown)) == [f"Mill{n}" for n in range(1, MILLS + 1)]


async def test_limits_that_the_server_tells_are_kept(
    scan: Scan, plant: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.enforce(monkeypatch, told=(40, 9))
    found = await scan("opcua", plant.endpoint, "--json")
    assert len(json.loads(found.out)["variables"]) == VARIABLES
    assert max(plant.sizes["browse"]) == 9
    assert max(plant.sizes["read"]) == 40


async def test_calls_are_halved_while_the_server_refuses_them(
    scan: Scan, plant: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.enforce(monkeypatch, per_read=30, per_browse=5)
    found = await scan("opcua", plant.endpoint, "--json")
    document = json.loads(found.out)
    assert len(document["variables"]) == VARIABLES
    assert all(variable["type"] != "?" for variable in document["variables"])
    assert sum(1 for size in plant.sizes["browse"] if size > 5) < 6
    assert sum(1 for size in plant.sizes["read"] if size > 30) < 6


async def test_a_value_that_fits_no_answer_is_missing_alone(
    scan: Scan, plant: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.enforce(monkeypatch, huge="ns=2;s=odd.Curve")
    found = await scan("opcua", plant.endpoint, "--json")
    variables = {variable["path"]: variable for variable in json.loads(found.out)["variables"]}
    assert len(variables) == VARIABLES
    missing = [path for path, variable in variables.items() if variable["status"] != "Good"]
    assert missing == ["Plant/Odd/Curve"]
    assert variables["Plant/Odd/Curve"]["status"] == "BadResponseTooLarge"
    assert variables["Plant/Odd/Curve"]["type"] == "Double"
    assert len(plant.sizes["read"]) < 60


async def test_references_in_parts_are_fetched_to_the_end(
    scan: Scan, plant: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.enforce(monkeypatch, references=3)
    found = await scan("opcua", plant.endpoint, "--json")
    assert len(json.loads(found.out)["variables"]) == VARIABLES
    assert len(plant.sizes["next"]) > LINES * MILLS


async def test_nothing_is_written_called_or_subscribed(
    scan: Scan, plant: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.enforce(monkeypatch, references=50)
    await scan("opcua", plant.endpoint)
    assert plant.services <= {
        "CreateSessionRequest",
        "ActivateSessionRequest",
        "CloseSessionRequest",
        "CloseSecureChannelRequest",
        "ReadRequest",
        "BrowseRequest",
        "BrowseNextRequest",
    }


async def test_no_more_nodes_than_allowed_are_visited(scan: Scan, plant: PlantServer) -> None:
    found = await scan("opcua", plant.endpoint, "--max-nodes", "60", "--json")
    document = json.loads(found.out)
    assert document["nodes"] == 60
    assert document["complete"] is False
    assert "the server has more than --max-nodes 60 nodes; not all were seen" in document["notes"]


async def test_a_scan_begins_where_it_is_told(scan: Scan, plant: PlantServer) -> None:
    whole = await scan("opcua", plant.endpoint, "--select", f"{MILL}/*", "--json")
    assert len(json.loads(whole.out)["variables"]) == PER_MILL
    server_state = await scan("opcua", plant.endpoint, "--from", "i=2253", "--select", "ServerStatus/State", "--json")
    assert [one["path"] for one in json.loads(server_state.out)["variables"]] == ["ServerStatus/State"]


async def test_an_unknown_node_ends_with_one_and_nonsense_with_two(scan: Scan, plant: PlantServer) -> None:
    found = await scan("opcua", plant.endpoint, "--from", "ns=2;s=nowhere")
    assert (found.code, found.out) == (1, "")
    assert "node ns=2;s=nowhere: BadNodeId" in found.told
    found = await scan("opcua", plant.endpoint, "--from", "nowhere")
    assert (found.code, found.out) == (2, "")
    assert found.told == "--from 'nowhere'; allowed: a node id such as ns=2;s=Plant or i=85\n"


async def test_patterns_are_shown_with_what_each_matched(scan: Scan, plant: PlantServer) -> None:
    found = await scan("opcua", plant.endpoint, "--select", "Plant/*/Mill1/*power", "--select", "**/Mill10/Setting")
    assert found.code == 0
    assert f"Plant/*/Mill1/*power matches {LINES}:" in found.lines
    assert f"**/Mill10/Setting matches {LINES}:" in found.lines
    assert sum(1 for line in found.lines if line.startswith("Plant/Line")) == 2 * LINES
    machine = await scan("opcua", plant.endpoint, "--select", "Plant/*/Mill1/*power", "--json")
    (selected,) = json.loads(machine.out)["selected"]
    assert selected["paths"] == [f"Plant/Line{n}/Mill1/Active power" for n in range(1, LINES + 1)]


async def test_a_pattern_without_match_is_told_with_what_is_near(scan: Scan, plant: PlantServer) -> None:
    found = await scan("opcua", plant.endpoint, "--select", "Plant/Line1/Mil1/*", "--select", f"{MILL}/Running")
    assert found.code == 1
    assert "--select 'Plant/Line1/Mil1/*' matches no variable; nearest: Plant/Line1/Mill1," in found.told
    assert f"{MILL}/Running matches 1:" in found.lines
    found = await scan("opcua", plant.endpoint, "--select", MILL)
    assert f"--select '{MILL}' matches no variable, but an object; its variables are {MILL}/**" in found.told
    found = await scan("opcua", plant.endpoint, "--select", "a//b")
    assert (found.code, found.out) == (2, "")


async def test_the_fragment_passes_check_config(scan: Scan, plant: PlantServer, check_config: Check) -> None:
    found = await scan("opcua", plant.endpoint, "--agent-toml")
    code, said = await check_config(found.out)
    assert code == 0, said
    # All but Setting, which has no unit, and what no point can hold.
    expected = LINES * MILLS * (PER_MILL - 1) + 1
    assert f"{expected} points of {LINES * MILLS + 1} devices on 1 connections" in said
    assert f"{MILL}/Setting: no unit, and the name does not tell the quantity" in found.told
    assert "Plant/Odd/Curve: type Double[]; allowed: a number, Boolean or String" in found.told
    assert "Plant/Odd/Stamp: type DateTime; allowed: a number, Boolean or String" in found.told
    assert "Plant/Odd/Trap: node 'ns=2;s=${HOME}.Trap' can't be written in a configuration" in found.told


async def test_tags_mean_what_units_and_names_tell(scan: Scan, plant: PlantServer) -> None:
    found = await scan("opcua", plant.endpoint, "--select", f"{MILL}/*", "--agent-toml")
    (device,) = tomllib.loads(found.out)["device"]
    assert (device["name"], device["connection"]) == ("plant.line2.mill3", "server")
    tags = {tag.pop("name"): tag for tag in device["tag"]}
    told = {name: (tag["quantity"], tag["unit"], tag["kind"], tag.get("value_type")) for name, tag in tags.items()}
    assert told == {
        "active_energy_total": ("active_energy", "kWh", "counter", None),
        "active_power": ("active_power", "kW", "gauge", None),
        "bearing": ("temperature", "degC", "gauge", None),
        "recipe": ("text", "1", "state", "text"),
        "running": ("running", "1", "state", "bool"),
    }
    assert "# ns=2 is urn:test:plant" in found.lines
    assert '# name = "setting"' in found.lines, "what is not told is a comment, to be completed"
    assert '# node = "ns=2;s=L2M3.Setting"' in found.lines


async def test_what_was_scanned_can_be_polled(scan: Scan, plant: PlantServer) -> None:
    found = await scan("opcua", plant.endpoint, "--select", f"{MILL}/*", "--select", "**/In&/Out", "--agent-toml")
    plan = found.plan()
    (bus,) = plan.buses
    assert isinstance(bus, OpcUaBus)
    bench = Bench(plan)
    try:
        seen = await bench.poll(0)
    finally:
        await bench.driver.close()
    values = {name.rpartition("/")[2]: reading.value for name, reading in seen.items()}
    assert values == {"active_power": 301.5, "active_energy_total": 1e6 + 3, "bearing": 61.5, "recipe": "R3",
                      "running": True, "in_out": 3.5}  # fmt: skip


async def test_a_connection_of_a_configuration_brings_its_user(
    scan: Scan, plant: PlantServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_config: Check
) -> None:
    class Users:
        def get_user(
            self, _iserver: Any, username: str | None = None, password: str | None = None, certificate: Any = None
        ) -> User | None:
            return User(role=UserRole.User) if (username, password) == ("agent", "secret") else None

    monkeypatch.setattr(plant.server.iserver, "user_manager", cast("UserManager", Users()))
    path = tmp_path / "agent.toml"
    user = 'username = "agent"\npassword_env = "SCAN_PASSWORD"'
    path.write_text(edge.modbus(1) + edge.opcua(plant.endpoint, "dcs", user), encoding="utf-8")
    arguments = ("opcua", "--config", str(path), "--connection", "dcs", "--select", f"{MILL}/*", "--agent-toml")
    monkeypatch.setenv("SCAN_PASSWORD", "secret")
    found = await scan(*arguments)
    assert found.code == 0
    assert "secret" not in found.out
    (connection,) = tomllib.loads(found.out)["connection"]
    assert (connection["name"], connection["username"]) == ("dcs", "agent")
    assert (await check_config(found.out))[0] == 0
    monkeypatch.setenv("SCAN_PASSWORD", "wrong")
    refused = await scan(*arguments)
    assert (refused.code, refused.out) == (1, "")
    assert f"cannot connect to {plant.endpoint}: " in refused.told
    wrong = await scan("opcua", "--config", str(path), "--connection", "bus")
    assert (wrong.code, wrong.told) == (
        2,
        "connection 'bus' is Modbus; allowed: an OPC-UA connection, or scan modbus\n",
    )


async def test_without_a_server_a_scan_ends_with_one(scan: Scan, unused_tcp_port: int) -> None:
    endpoint = f"opc.tcp://127.0.0.1:{unused_tcp_port}"
    found = await scan("opcua", endpoint)
    assert (found.code, found.out) == (1, "")
    assert found.told.startswith(f"cannot connect to {endpoint}: ")


async def test_a_wrong_endpoint_ends_with_two(scan: Scan) -> None:
    found = await scan("opcua", "http://plant")
    assert (found.code, found.out) == (2, "")
    assert "endpoint: String should match pattern" in found.told
