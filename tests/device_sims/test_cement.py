"""The cement plant pack: realistic, resolved well enough to account by, and in step with the agent's file."""

from __future__ import annotations

import struct
import tomllib
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from device_sims.fleet import Fleet
from device_sims.kinds import registry
from protocols.meters import catalogue
from protocols.meters.schema import Field
from tests.support import fleets
from tests.support.fleets import CEMENT, HOUR

FIRST = fleets.us("2022-06-14T00:00+08:00")
END = fleets.us("2022-06-16T00:00+08:00")
ORIGINS = ["2022-06-13T20:48:00+08:00", "2022-06-14T00:00:00+08:00", "2022-06-14T06:00:00+08:00"]


@cache
def fleet(origin: str = ORIGINS[0]) -> Fleet:
    return Fleet(fleets.cement(origin))


def devices() -> dict[str, tuple[int, int, str, str]]:
    """Name → port, unit id, model, kind."""
    found = {}
    for gateway in fleet().config.gateways:
        for device in gateway.devices:
            found[device.name] = gateway.port, device.unit_id, device.model, device.kind
    return found


def main_counter(name: str) -> Field:
    """The counter of a device that accounts are made from."""
    _, _, model, kind = devices()[name]
    points = fleet().points
    fields = [f for f in catalogue.model(model).fields if f"{name}/{f.name}" in points and not f.name.endswith("_2")]
    wanted = "export" if name == "whr_generator" else "import"
    return next(f for f in fields if kind != "electricity" or wanted in f.name)


def shown(served: Fleet, name: str, field: Field, at_us: int) -> float:
    """What the device shows, decoded by hand from its registers [unit of the field]."""
    port, unit_id, model, _ = devices()[name]
    gateway = next(g for g in served.gateways if g.port == port)
    function = {"holding": 3, "input": 4}[field.table]
    request = struct.pack(">BHH", function, field.address, field.count)
    answer = gateway.devices[unit_id].answer(request, lambda: served.plant.at(at_us))
    assert answer is not None
    assert answer[0] == function
    data = answer[2:]
    if catalogue.model(model).word_order == "little":
        data = b"".join(data[n : n + 2] for n in range(len(data) - 2, -1, -2))
    code = {"float32": "f", "float64": "d", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q"}[field.type]
    return float(struct.unpack(f">{code}", data)[0]) * field.scale


@pytest.mark.parametrize("name", sorted(devices()))
def test_an_hour_is_resolved_better_than_a_fiftieth_of_a_percent(name: str) -> None:
    field, plant = main_counter(name), fleet().plant
    series = plant.layout.series[fleet().points[f"{name}/{field.name}"]]
    factor = 1000 if field.unit == "Wh" else 1
    modulus = 1_000_000.0 if field.quantity == "mass" else None
    busiest = 0.0
    for hour in range(48):
        begin, end = FIRST + hour * HOUR, FIRST + (hour + 1) * HOUR
        true = (plant.at(end).total(series) - plant.at(begin).total(series)) * factor
        read = shown(fleet(), name, field, end) - shown(fleet(), name, field, begin)
        if modulus is not None and read < 0:
            read += modulus
        busiest = max(busiest, true)
        # Where a machine stands, the hour is small; what counts then is the step against normal running.
        assert abs(read - true) <= 0.0002 * max(true, busiest), (hour, read, true)
    assert busiest > 0


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("name", ["scale_raw_meal", "scale_cement", "scale_packed"])
def test_each_belt_scale_starts_again_from_zero_within_the_two_days(name: str, origin: str) -> None:
    served, field = fleet(origin), main_counter(name)
    masses = [shown(served, name, field, at) for at in range(FIRST, END + 1, HOUR)]
    assert sum(after < before for before, after in pairwise(masses)) == 1


def test_production_and_consumption_have_the_size_of_a_5000_t_line() -> None:
    plant = fleet().plant
    before, after = plant.at(FIRST).totals(), plant.at(FIRST + 24 * HOUR).totals()
    made = {name: after[column] - before[column] for name, column in plant.layout.series.items()}
    for name, expected in (("raw_meal", 8000), ("clinker", 5000), ("cement", 6000), ("packed", 6000)):
        assert made[name] == pytest.approx(expected, rel=0.06), name
    assert made["coal_feed_kiln"] + made["coal_feed_calciner"] == pytest.approx(0.1452 * made["clinker"])
    assert made["coal_meal"] == pytest.approx(0.1452 * made["clinker"], rel=0.06)
    assert made["whr_generator"] == pytest.approx(32.1 * made["clinker"])
    assert made["main_incomer_export"] == 0
    assert 300_000 < made["main_incomer"] < 420_000


def test_machines_run_and_stand_within_the_two_days() -> None:
    plant = fleet().plant
    moments = [plant.at(at) for at in range(FIRST, END, HOUR // 6)]
    for name, column in plant.layout.machines.items():
        running = sum(moment.running(column) for moment in moments) / len(moments)
        assert (running == 1) if name == "kiln" else (0.5 < running < 0.97), name


def test_at_least_four_makers_are_served() -> None:
    makers = {catalogue.model(model).maker for _, _, model, kind in devices().values() if kind == "electricity"}
    assert len(makers) >= 4


def agent() -> dict[str, Any]:
    return tomllib.loads((CEMENT / "agent.toml").read_text(encoding="utf-8"))


def test_the_agent_reads_what_the_fleet_serves() -> None:
    document, served = agent(), devices()
    ports = {connection["name"]: connection.get("port") for connection in document["connection"]}
    moduli = {device.name: device.modulus for gateway in fleet().config.gateways for device in gateway.devices}
    seen = set()
    for device in document["device"]:
        name = device["name"]
        if "model" not in device:
            continue
        port, unit_id, model, _ = served[name]
        assert (ports[device["connection"]], device["unit_id"], device["model"]) == (port, unit_id, model), name
        overrides = {tag["name"]: tag["modulus"] for tag in device.get("tag", []) if "modulus" in tag}
        wanted = {field: moduli[name][field] for field in moduli[name] if field in device["tags"]}
        assert overrides == wanted, name
        seen.add(name)
    assert seen == set(served)


def test_the_agents_nodes_are_the_servers_nodes() -> None:
    (server,) = fleet().config.opcua
    nodes = {f"ns=2;s={node.id}": node for node in server.nodes}
    kinds = {"counter": "total", "gauge": "rate", "state": "running"}
    units = fleet().plant.layout
    read = [tag for device in agent()["device"] for tag in device.get("tag", []) if "node" in tag]
    assert len(read) >= 10
    for tag in read:
        node = nodes[tag["node"]]
        assert kinds[tag["kind"]] == node.value, tag["name"]
        if node.value != "running":
            unit = units.unit(node.of) + ("/h" if node.value == "rate" else "")
            assert tag["unit"] == unit, tag["name"]
    endpoints = [connection.get("endpoint", "") for connection in agent()["connection"]]
    assert any(endpoint.endswith(f":{server.port}") for endpoint in endpoints)


def test_the_contracts_names_ports_and_unit_ids_are_served() -> None:
    expected = {
        15020: ["main_incomer", "raw_mill_main", "raw_mill_fans", "raw_mill_aux"],
        15021: ["coal_mill_main", "kiln_main", "kiln_fans", "cooler_fans", "preheater_aux"],
        15022: [
            "cement_mill_1", "cement_mill_2", "cement_aux", "packing", "compressors", "water_pumps", "whr_generator",
        ],
        15023: ["water_kiln", "water_whr", "water_site", "air_raw", "air_kiln", "air_cement"],
        15024: ["scale_raw_meal", "scale_cement", "scale_packed"],
    }  # fmt: skip
    assert {(port, n + 1): name for port, names in expected.items() for n, name in enumerate(names)} == {
        (port, unit_id): name for name, (port, unit_id, _, _) in devices().items()
    }


def test_every_kind_of_device_is_in_the_plant() -> None:
    assert {kind for *_, kind in devices().values()} == set(registry.KINDS)
