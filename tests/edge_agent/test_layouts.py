"""Devices that are alike are planned once, and each is still read as itself."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from edge_agent import config, points
from edge_agent.drivers.decoding import decoding
from edge_agent.points import ModbusBus, ModbusDevice, Plan
from protocols.config import ConfigError
from protocols.meters import catalogue
from tests.support import edge
from tests.support.modbus_bench import bench
from tests.support.modbus_responder import Asked, Reply, Responder

MODEL = """\
[[model]]
name = "panel_meter"
medium = "electricity"
word_order = "little"
limits = { max_registers = 20 }
[[model.field]]
name = "power"
quantity = "active_power"
unit = "kW"
kind = "gauge"
table = "holding"
address = 0
type = "uint32"
[[model.field]]
name = "running"
quantity = "running"
unit = "1"
kind = "state"
table = "holding"
address = 2
type = "bit"
bit = 3
[[model.field]]
name = "energy"
quantity = "active_energy"
unit = "kWh"
kind = "counter"
table = "holding"
address = 3
type = "uint32"
"""


def panel(name: str, unit_id: int, extra: str = "", connection: str = "bus") -> str:
    return edge.device(name, connection=connection, unit_id=unit_id, extra=f'model = "panel_meter"\n{extra}')


def devices(plan: Plan) -> list[ModbusDevice]:
    found = [device for bus in plan.buses if isinstance(bus, ModbusBus) for device in bus.devices]
    return sorted(found, key=lambda device: device.name)


def refusal(*parts: str) -> str:
    with pytest.raises(ConfigError) as caught:
        edge.plan(edge.head(), edge.modbus(502), *parts)
    return str(caught.value)


def test_devices_that_differ_only_in_who_and_when_share_a_layout() -> None:
    plan = edge.plan(
        edge.head(),
        edge.modbus(502),
        edge.modbus(503, name="other"),
        MODEL,
        panel("a", 1, 'serial = "A-1"'),
        panel("b", 2, 'phase_s = 0.1\nserial = "B-2"'),
        panel("c", 1, connection="other"),
        panel("d", 3, "keep_raw = true"),
    )

    a, b, c, d = devices(plan)
    assert a.layout is b.layout is c.layout
    assert d.layout is not a.layout
    assert [request.unit_id for request in (*a.requests, *b.requests)] == [1, 2]
    assert decoding(a.requests[0], a.layout) is decoding(b.requests[0], b.layout)
    assert [list(device.points) for device in (a, b, c)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [tag.index for tag in b.tags] == [3, 4, 5]
    found = plan.schema.points[4]
    assert (found.device, found.tag, found.serial, found.model) == ("b", "running", "B-2", "panel_meter")
    assert plan.schema.points[0].serial == "A-1"
    assert plan.schema.points[6].serial is None
    assert len(plan.schema) == 15


def test_a_connection_with_another_cost_has_plans_of_its_own() -> None:
    plan = edge.plan(
        edge.head(),
        edge.modbus(502),
        edge.modbus(503, name="slow", extra="bytes_per_s = 1000"),
        *(
            edge.device(name, edge.register("x", 0), edge.register("y", 100), connection=bus)
            for name, bus in (("a", "bus"), ("b", "slow"))
        ),
    )

    a, b = devices(plan)
    assert a.layout is not b.layout
    assert [len(device.requests) for device in (a, b)] == [1, 2]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_limit_given_at_its_default_is_not_taken_for_one_that_is_not_given(order: tuple[int, int]) -> None:
    texts = ("limits = { pause_after_connect_ms = 5 }", "limits = { pause_after_connect_ms = 5, max_registers = 125 }")
    plan = edge.plan(edge.head(), edge.modbus(502), MODEL, *(panel(f"d{n}", n + 1, texts[n]) for n in order))

    # The model's own limit is 20.
    assert [device.limits.max_registers for device in devices(plan)] == [20, 125]


def test_lists_spelled_out_alike_are_one_layout_and_one_that_differs_is_its_own() -> None:
    one = [edge.register("x", 0), edge.register("y", 1)]
    other = [edge.register("x", 0), edge.register("y", 2)]
    plan = edge.plan(
        edge.head(),
        edge.modbus(502),
        edge.device("a", *one),
        edge.device("b", *one, unit_id=2),
        edge.device("c", *other, unit_id=3),
        edge.device("d", *one, unit_id=4),
    )

    a, b, c, d = devices(plan)
    assert a.layout is b.layout is d.layout
    assert c.layout is not a.layout
    assert [request.count for request in c.requests] == [3]


def test_a_mistake_is_told_of_each_device_that_makes_it() -> None:
    wrong = edge.register("x", 0, "uint7")
    text = refusal(edge.device("a", wrong), edge.device("b", wrong, unit_id=2))

    assert [line.split(":")[1].split(".type")[0] for line in text.splitlines()] == [
        " device 'a'.tag 'x'",
        " device 'b'.tag 'x'",
    ]
    text = refusal(
        *(edge.device(name, edge.register("x", 0, extra="scale = 0"), unit_id=n) for n, name in enumerate("ab", 1))
    )
    assert [line.partition(": scale")[0] for line in text.splitlines()] == [
        "agent.toml: device 'a'.tag 'x'",
        "agent.toml: device 'b'.tag 'x'",
    ]


def test_models_of_the_configuration_are_checked_like_those_of_the_catalogue() -> None:
    assert "device 'a': meter model 'panel' is unknown; allowed: panel_meter, " in refusal(
        MODEL, edge.device("a", extra='model = "panel"')
    )
    assert refusal(MODEL, MODEL, panel("a", 1)) == (
        "agent.toml: model 'panel_meter': 2 have this name; allowed: one of each name"
    )
    assert refusal(MODEL.replace("panel_meter", "abb_b23"), edge.device("a", extra='model = "abb_b23"')) == (
        "agent.toml: model 'abb_b23': the catalogue has one of this name; allowed: another name"
    )
    assert "model 'panel_meter'" in refusal(MODEL.replace("address = 3", "address = 1"), panel("a", 1))
    assert "overlap" in refusal(MODEL.replace("address = 3", "address = 1"), panel("a", 1))
    assert "device 'a'.serial: holds a NUL character" in refusal(MODEL, panel("a", 1, 'serial = "x\\u0000"'))


def test_what_a_run_does_not_need_is_not_kept() -> None:
    plan = edge.plan(edge.head(), edge.modbus(502), MODEL, panel("a", 1))

    assert plan.config.device == ()
    assert plan.config.model == ()
    assert config._known_lists == {}


@pytest.fixture
def _catalogue() -> None:
    """Read the folder before the loop runs, which must not wait for files."""
    catalogue.names()


@pytest.mark.usefixtures("_catalogue")
async def test_each_of_several_devices_that_are_alike_gets_its_own_readings() -> None:
    def answer(asked: Asked) -> Reply:
        # Little word order: the low word first. Bit 3 of the third register is that of even units.
        unit = asked.unit
        return asked.answer([unit, 0, 8 * (unit % 2 == 0), 100 + unit, 0])

    async with Responder(answer) as responder:
        parts = [edge.head(), edge.modbus(responder.port), MODEL, *(panel(f"d{n}", n) for n in (1, 2, 3))]
        async with bench(*parts) as made:
            for turn, unit in enumerate((1, 2, 3)):
                assert await made.values(turn) == {
                    f"d{unit}/power": unit,
                    f"d{unit}/running": unit == 2,
                    f"d{unit}/energy": 100 + unit,
                }


def _kept_bytes(devices: int) -> int:
    """What a plan of so many devices with 60 points each takes."""
    one = [edge.register(f"v{n}", n) for n in range(60)]
    text = [edge.head(), edge.modbus(502), *(edge.device(f"d{n}", *one, unit_id=n) for n in range(devices))]
    gc.collect()
    tracemalloc.start()
    try:
        plan = points.load("\n".join(text), "agent.toml", {})
        gc.collect()
        assert len(plan.schema) == 60 * devices
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_a_device_more_of_a_kind_costs_no_more_than_its_name_and_number() -> None:
    _kept_bytes(1)

    a_device = (_kept_bytes(42) - _kept_bytes(2)) / 40

    # Sixty points of their own would take a hundred times as much.
    assert a_device < 2000
