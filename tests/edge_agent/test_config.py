"""A wrong configuration is refused before anything connects, with file, device, field, value and what is allowed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edge_agent import config, points
from edge_agent.points import ModbusBus, OpcUaBus
from protocols.clock import ClockConfig
from protocols.config import ConfigError
from protocols.timebase import REAL_TIME, US
from tests.support import edge

METER = (
    '[[device]]\nname = "mill"\nconnection = "bus"\nunit_id = 1\nmodel = "eastron_sdm630"\n'
    'tags = ["active_energy_import", "active_power"]\n'
)
GOOD = [edge.head(), edge.modbus(502), edge.device("mill", edge.register("a", 10, "float32"))]


def refusal(*parts: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        points.load("\n".join(parts), "agent.toml", {})
    return str(caught.value).splitlines()


def tags(*parts: str, extra: str = "") -> list[str]:
    return refusal(edge.head(), edge.modbus(502), edge.device("mill", *parts, extra=extra))


def test_a_good_configuration_is_accepted() -> None:
    plan = points.load("\n".join(GOOD), "agent.toml", {})
    assert [point.tag for point in plan.schema.points] == ["a"]


def test_an_unknown_key_is_refused() -> None:
    assert refusal(*GOOD, "[batch]\nmax_reading = 5") == [
        "agent.toml: batch.max_reading: unknown key; allowed keys are those that print-config shows (found 5)"
    ]
    assert tags(edge.register("a", 1, extra='adress = "5"')) == [
        "agent.toml: device 'mill'.tag 'a'.adress: unknown key; allowed keys are those that print-config shows "
        "(found '5')"
    ]


def test_text_that_is_not_toml_is_refused() -> None:
    assert refusal("[agent")[0].startswith("agent.toml: not TOML: ")


def test_a_missing_variable_is_refused() -> None:
    assert refusal(edge.head(path="${NOWHERE}"), *GOOD[1:]) == [
        "agent.toml: buffer.path: environment variable NOWHERE is not set and has no default"
    ]


def test_numbers_may_come_from_the_environment() -> None:
    text = (
        "\n".join(GOOD).replace("port = 1883", 'port = "${MQTT_PORT:-1884}"').replace("version = 5", 'version = "${V}"')
    )
    assert points.load(text, "agent.toml", {"V": "3"}).config.mqtt.port == 1884
    found = points.load(text, "agent.toml", {"V": "3", "MQTT_PORT": "9"}).config.mqtt
    assert (found.port, found.version) == (9, 3)


SERIAL = [edge.head(), edge.serial("/dev/ttyUSB0"), edge.device("mill", edge.register("a", 10, "float32"))]


@pytest.mark.parametrize(
    ("type_", "extra", "message"),
    [
        ("bit", "", "bit is missing on type 'bit'; allowed: with bit, and needed"),
        ("uint16", "bit = 3", "bit 3 on type 'uint16'; allowed: with bit, and needed"),
        ("string", "", "length is missing on type 'string'; allowed: with string and hex, and needed"),
        ("bcd32", "length = 2", "length 2 on type 'bcd32'; allowed: with string and hex, and needed"),
        ("bit", "bit = 3\nscale = 2", "scale 2.0, offset 0.0 on a bit; allowed: 1 and 0"),
        ("string", "length = 2\noffset = 2", "scale 1.0, offset 2.0 on a text; allowed: 1 and 0"),
        ("string", "length = 2", "type 'string' on quantity 'temperature'; allowed: on quantity text only"),
        ("string", "length = 2\nno_value = 0", "no_value 0 on type 'string'; allowed: on integers only"),
        (
            "bcd16",
            "no_value = 65_535",
            "no_value: value 65535 does not fit bcd16: more than 4 digits",
        ),
    ],
)
def test_what_a_register_type_lacks_or_cannot_have_is_refused(type_: str, extra: str, message: str) -> None:
    assert tags(edge.register("a", 1, type_, extra=extra)) == [f"agent.toml: device 'mill'.tag 'a': {message}"]


def test_bits_of_one_register_are_one_request_and_are_told_apart() -> None:
    flags = [edge.bit(f"f{n}", 7, "holding").replace('"bool"', f'"bit"\nbit = {n}') for n in (0, 15)]
    plan = edge.plan(edge.head(), edge.modbus(502), edge.device("m", *flags))
    assert [(point.address, point.value_type) for point in plan.schema.points] == [
        ("holding 7 bit 0", "bool"),
        ("holding 7 bit 15", "bool"),
    ]
    bus = plan.buses[0]
    assert isinstance(bus, ModbusBus)
    assert [request.count for request in bus.devices[0].requests] == [1]


def test_more_connections_than_a_device_serves_are_refused() -> None:
    two = [edge.head(), edge.modbus(502), edge.modbus(502, name="other")]
    own = edge.device("a", edge.register("t", 1))
    assert refusal(*two, own, edge.device("b", edge.register("t", 1), connection="other", unit_id=2)) == [
        "agent.toml: connection 'other': 2 connections lead to 127.0.0.1:502; allowed: up to 1, "
        "as limits.max_connections of device 'a' says"
    ]
    many = "limits = { max_connections = 2 }"
    roomy = edge.device("b", edge.register("t", 1), connection="other", unit_id=2, extra=many)
    assert len(refusal(*two, own, roomy)) == 1
    edge.plan(*two, edge.device("a", edge.register("t", 1), extra=many), roomy)
    edge.plan(edge.head(), edge.modbus(502), edge.modbus(503, name="other"), own)


def test_registers_are_kept_where_that_is_wanted() -> None:
    plan = edge.plan(
        edge.head(),
        edge.modbus(502),
        edge.device(
            "m",
            edge.register("a", 10, "float32", extra="heartbeat_s = 5"),
            edge.register("b", 12, extra="keep_raw = false"),
            edge.bit("c", 0),
            extra="keep_raw = true",
        ),
    )
    assert [(point.tag, point.value_type, point.address) for point in plan.schema.points] == [
        ("a", "float", "holding 10 float32"),
        ("a.raw", "text", "holding 10 hex 2"),
        ("b", "int", "holding 12 uint16"),
        ("c", "bool", "coil 0 bool"),
    ]
    assert plan.schema.points[1].heartbeat_s == 5
    bus = plan.buses[0]
    assert isinstance(bus, ModbusBus)
    assert len(bus.devices[0].requests) == 2


def test_registers_that_cannot_be_kept_are_refused() -> None:
    assert tags(edge.bit("c", 0) + "keep_raw = true\n") == [
        "agent.toml: device 'mill'.tag 'c': keep_raw on a coil; allowed: on registers only"
    ]
    assert tags(edge.register("a", 10, extra="keep_raw = true"), edge.register("a.raw", 12)) == [
        "agent.toml: device 'mill'.tag 'a.raw': keep_raw makes a tag of this name for 'a'; allowed: another name"
    ]
    (line,) = tags(edge.register("a" * 62, 10, extra="keep_raw = true"))
    assert "1 to 64 letters" in line


def test_addresses_may_count_from_one() -> None:
    plan = edge.plan(edge.head(), edge.modbus(502), edge.device("m", edge.register("a", 101), extra="address_base = 1"))
    bus = plan.buses[0]
    assert isinstance(bus, ModbusBus)
    assert [request.address for request in bus.devices[0].requests] == [100]
    assert tags(edge.register("a", 0), extra="address_base = 1") == [
        "agent.toml: device 'mill'.tag 'a': address 0; allowed: from 1, since address_base is 1"
    ]
    meter = edge.plan(edge.head(), edge.modbus(502), METER + "address_base = 1\n").buses[0]
    assert isinstance(meter, ModbusBus)
    assert meter.devices[0].tags == edge.plan(edge.head(), edge.modbus(502), METER).buses[0].devices[0].tags


def test_two_connections_to_one_serial_port_are_refused() -> None:
    assert refusal(*SERIAL, edge.serial("/dev//ttyUSB0", name="other")) == [
        "agent.toml: connection 'other'.port '/dev//ttyUSB0' is the port of connection 'bus' too; "
        "allowed: one connection per port, with all its devices"
    ]
    assert len(edge.plan(*SERIAL, edge.serial("/dev/ttyUSB1", name="other")).buses) == 2


@pytest.mark.parametrize("connection", [edge.serial("/dev/ttyUSB0"), edge.serial_tcp(4001)])
@pytest.mark.parametrize("unit_id", [0, 248])
def test_a_unit_id_that_no_serial_unit_can_have_is_refused(connection: str, unit_id: int) -> None:
    assert refusal(edge.head(), connection, edge.device("mill", edge.register("a", 1), unit_id=unit_id)) == [
        f"agent.toml: device 'mill': unit_id {unit_id}; allowed: 1 to 247 on a serial line"
    ]


def test_more_than_a_serial_line_can_carry_is_refused() -> None:
    devices = [
        edge.device(f"m{n}", *(edge.register(f"t{k}", 4 * k, "int64") for k in range(30)), unit_id=n)
        for n in range(1, 6)
    ]
    assert refusal(edge.head(), edge.serial("/dev/ttyUSB0", extra="baudrate = 9_600"), *devices) == [
        "agent.toml: connection 'bus'.baudrate 9600: the requests of its devices take 135 % of the time on the wire; "
        "allowed: up to 100 %, by longer poll_interval_s, fewer tags or a faster line"
    ]
    edge.plan(edge.head(), edge.serial("/dev/ttyUSB0", extra="baudrate = 19_200"), *devices)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('parity = "X"', "connection.0.modbus-rtu.parity: Input should be 'N', 'E' or 'O' (found 'X')"),
        ("bytesize = 7", "bytesize: Input should be greater than or equal to 8 (found 7)"),
        ("baudrate = 110", "baudrate: Input should be greater than or equal to 300 (found 110)"),
        ("stopbits = 3", "stopbits: Input should be less than or equal to 2 (found 3)"),
    ],
)
def test_a_line_that_cannot_be_is_refused(extra: str, message: str) -> None:
    (line,) = refusal(edge.head(), edge.serial("/dev/ttyUSB0", extra=extra), SERIAL[2])
    assert line.split(".")[-1] == message.split(".")[-1]
    assert "connection 'bus'" in line


def test_times_on_the_wire_are_those_of_the_line() -> None:
    """A character of 10 or 11 bits; request 8, answer 5 and data, twice 3.5 characters of silence."""
    lines = {"N": 10, "E": 11}
    for parity, bits in lines.items():
        plan = edge.plan(
            edge.head(), edge.serial("/dev/ttyUSB0", extra=f'baudrate = 9_600\nparity = "{parity}"'), SERIAL[2]
        )
        bus = plan.buses[0].settings
        assert isinstance(bus, config.ModbusRtu)
        assert bus.wire_s(250) == pytest.approx((8 + 5 + 250 + 7) * bits / 9600)
        assert bus.cost().seconds(2, 500) == pytest.approx(2 * bus.wire_s(250) + 2 * bus.turnaround_s)


def test_tags_that_overlap_in_part_are_refused() -> None:
    assert tags(edge.register("a", 10, "float32"), edge.register("b", 11, "float32")) == [
        "agent.toml: device 'mill'.tag 'b': holding 11 to 12 overlaps tag 'a' at holding 10 to 11; "
        "allowed: the very same place and type, or no register in common"
    ]
    assert (
        "overlaps tag 'a' at holding 10" in tags(edge.register("a", 10, "int16"), edge.register("b", 10, "uint16"))[0]
    )


def test_tags_at_the_very_same_place_are_allowed() -> None:
    plan = edge.plan(
        edge.head(),
        edge.modbus(502),
        edge.device("m", edge.register("a", 10), edge.register("b", 10, extra="scale = 2")),
    )
    bus = plan.buses[0]
    assert isinstance(bus, ModbusBus)
    assert len(bus.devices[0].requests) == 1


@pytest.mark.parametrize(
    ("address", "type_", "message"),
    [
        (
            70_000,
            "uint16",
            "agent.toml: device 'mill'.tag 'a'.address: Input should be less than or equal to 65535 (found 70000)",
        ),
        (
            -1,
            "uint16",
            "agent.toml: device 'mill'.tag 'a'.address: Input should be greater than or equal to 0 (found -1)",
        ),
        (
            65_535,
            "float32",
            "agent.toml: device 'mill'.tag 'a': address 65535 with 2 registers; allowed: up to 65534",
        ),
    ],
)
def test_a_register_out_of_range_is_refused(address: int, type_: str, message: str) -> None:
    assert tags(edge.register("a", address, type_)) == [message]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            'unit = "kW"',
            "agent.toml: device 'mill'.tag 'active_energy_import': unit 'kW' does not fit quantity 'active_energy'; "
            "allowed: kWh, Wh, MWh, GJ",
        ),
        (
            'quantity = "enrgy"',
            "agent.toml: device 'mill'.tag 'active_energy_import': quantity 'enrgy' is unknown; known: ",
        ),
        (
            'kind = "gauge"',
            "agent.toml: device 'mill'.tag 'active_energy_import': kind 'gauge' does not fit quantity 'active_energy'; "
            "allowed: counter",
        ),
        (
            'medium = "water"',
            "agent.toml: device 'mill'.tag 'active_energy_import': medium 'water' does not fit quantity "
            "'active_energy'; allowed: electricity",
        ),
        (
            "scale = 0",
            "agent.toml: device 'mill'.tag 'active_energy_import': scale 0",
        ),
        (
            'type = "bool"',
            "agent.toml: device 'mill'.tag 'active_energy_import': type 'bool' in table 'input'; allowed: all but bool",
        ),
        (
            'type = "bcd"',
            "agent.toml: device 'mill'.tag 'active_energy_import'.type: Input should be 'bool', 'int16', ",
        ),
    ],
)
def test_a_definition_that_contradicts_itself_is_refused(change: str, message: str) -> None:
    lines = refusal(edge.head(), edge.modbus(502), METER, f'[[device.tag]]\nname = "active_energy_import"\n{change}')
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_a_modulus_belongs_on_a_counter() -> None:
    lines = refusal(edge.head(), edge.modbus(502), METER, '[[device.tag]]\nname = "active_power"\nmodulus = 1000')
    assert lines == ["agent.toml: device 'mill'.tag 'active_power': modulus 1000 on a gauge; allowed: on counters only"]


def test_two_devices_or_connections_with_one_name_are_refused() -> None:
    assert (
        refusal(*GOOD, edge.modbus(503), edge.device("mill", edge.register("a", 1), unit_id=2))
        == [
            "agent.toml: connection 'bus': 2 have this name; allowed: one of each name",
            "agent.toml: device 'mill': 2 have this name; allowed: one of each name",
            "agent.toml: device 'mill': another device of this name has a tag 'a'; allowed: one of each name",
        ][:2]
    )


def test_two_tags_with_one_name_are_refused() -> None:
    assert "agent.toml: device 'mill'.tag 'a': 2 tags have this name; allowed: one of each name" in tags(
        edge.register("a", 1), edge.register("a", 2)
    )


def test_two_devices_that_read_the_same_registers_are_refused() -> None:
    assert refusal(*GOOD, edge.device("copy", edge.register("x", 11, "uint16"))) == [
        "agent.toml: device 'copy'.tag 'x': holding 11 of unit_id 1 on connection 'bus' is read by device 'mill' too; "
        "allowed: another unit_id, or registers that no other device reads"
    ]


def test_two_devices_may_share_a_unit_with_registers_of_their_own() -> None:
    edge.plan(*GOOD, edge.device("other", edge.register("a", 12), extra="poll_interval_s = 5"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "heartbeat_s = 20",
            "agent.toml: device 'mill'.tag 'a': heartbeat_s 20 is longer than gap_limit_s 10, so silence could not be "
            "told from a gap; allowed: up to 10",
        ),
        (
            "poll_interval_s = 60",
            "agent.toml: device 'mill'.tag 'a': poll_interval_s 60 is longer than gap_limit_s 10; allowed: up to 10",
        ),
        ("phase_s = 1", "agent.toml: device 'mill': phase_s 1; allowed: below poll_interval_s 1"),
        ("limits = { max_registers = 1 }", "agent.toml: device 'mill': holding 10 takes 2 entries; allowed: up to 1"),
    ],
)
def test_times_and_limits_that_do_not_fit_are_refused(extra: str, message: str) -> None:
    lines = tags(edge.register("a", 10, "float32"), extra=extra)
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_a_heartbeat_longer_than_the_gap_limit_of_one_tag_is_refused() -> None:
    lines = tags(edge.register("a", 10), edge.register("b", 11, extra="gap_limit_s = 2"), extra="heartbeat_s = 5")
    assert lines == [
        "agent.toml: device 'mill'.tag 'b': heartbeat_s 5 is longer than gap_limit_s 2, so silence could not be told "
        "from a gap; allowed: up to 2"
    ]


def test_unknown_models_fields_tags_and_connections_are_refused() -> None:
    def device(*lines: str) -> list[str]:
        return refusal(edge.head(), edge.modbus(502), "\n".join(['[[device]]\nname = "mill"', *lines]))

    model = 'connection = "bus"\nunit_id = 1\nmodel = "eastron_sdm630"'
    assert device('connection = "buss"\nunit_id = 1') == [
        "agent.toml: device 'mill': connection 'buss' is unknown; allowed: bus"
    ]
    assert device('connection = "bus"\nunit_id = 1\nmodel = "eastron"')[0].startswith(
        "agent.toml: device 'mill': meter model 'eastron' is unknown; allowed: 2flow_mag11, "
    )
    assert device(model, 'tags = ["power"]')[0].startswith(
        "agent.toml: device 'mill': tags: 'power' is not a field of eastron_sdm630; allowed: voltage_l1, "
    )
    assert device(model, '[[device.tag]]\nname = "x"\nfield = "power"')[0].startswith(
        "agent.toml: device 'mill'.tag 'x': field 'power' is unknown; allowed: voltage_l1, "
    )
    assert device('connection = "bus"\nmodel = "eastron_sdm630"') == [
        "agent.toml: device 'mill': unit_id is missing; allowed: 0 to 255"
    ]
    assert device('connection = "bus"\nunit_id = 300') == [
        "agent.toml: device 'mill'.unit_id: Input should be less than or equal to 255 (found 300)"
    ]
    assert device('connection = "bus"\nunit_id = 1') == [
        "agent.toml: device 'mill': no tag; allowed: a model, or at least one [[device.tag]]"
    ]
    assert device('connection = "bus"\nunit_id = 1\ntags = ["a"]') == [
        "agent.toml: device 'mill': tags without model; allowed: with a model, else [[device.tag]]"
    ]
    assert device('connection = "bus"\nunit_id = 1\n[[device.tag]]\nname = "x"\nunit = "kW"') == [
        "agent.toml: device 'mill'.tag 'x': quantity, kind, table, address, type missing; "
        "needed: quantity, unit, kind, table, address, type"
    ]


def test_keys_of_the_other_protocol_are_refused() -> None:
    dcs = edge.opcua("opc.tcp://127.0.0.1:4840")
    assert tags(edge.register("a", 1, extra='node = "i=1"')) == [
        "agent.toml: device 'mill'.tag 'a': node 'i=1'; allowed: on OPC-UA connections only"
    ]
    assert refusal(edge.head(), dcs, edge.device("kiln", edge.node("a", "i=1"), connection="dcs", unit_id=1)) == [
        "agent.toml: device 'kiln': unit_id; allowed: on Modbus connections only"
    ]
    assert refusal(
        edge.head(),
        dcs,
        edge.device("kiln", edge.node("a", "i=1", extra="address = 1"), connection="dcs", unit_id=None),
    ) == ["agent.toml: device 'kiln'.tag 'a': address 1; allowed: on Modbus connections only"]
    assert refusal(
        edge.head(), dcs, edge.device("kiln", edge.node("a", "Kiln.Feed"), connection="dcs", unit_id=None)
    ) == ["agent.toml: device 'kiln'.tag 'a': node 'Kiln.Feed'; allowed: a node id such as ns=2;s=Kiln.Feed or i=2258"]
    assert (
        "endpoint: String should match pattern"
        in refusal(
            edge.head(),
            edge.opcua("http://x"),
            edge.device("kiln", edge.node("a", "i=1"), connection="dcs", unit_id=None),
        )[0]
    )


def test_every_problem_is_named_at_once() -> None:
    lines = refusal(
        edge.head(),
        edge.modbus(502),
        edge.device("a", edge.register("x", 65_535, "float32")),
        edge.device("b", edge.register("x", 1, extra='medium = "water"'), connection="elsewhere"),
        METER.replace("active_power", "power"),
    )
    assert [line.split(": ")[1] for line in lines] == ["device 'a'.tag 'x'", "device 'b'", "device 'mill'"]
    assert refusal("device = []", edge.head(), edge.modbus(502)) == [
        "agent.toml: device: none; allowed: at least one [[device]]"
    ]


def test_names_that_topics_cannot_hold_are_refused() -> None:
    lines = refusal("\n".join(GOOD).replace('name = "gw1"', 'name = "gw/1"'))
    assert lines == [
        "agent.toml: agent.name: name 'gw/1' is not allowed; allowed: 1 to 64 letters, digits, '_', '-' or '.'"
    ]


def test_a_secret_is_never_shown() -> None:
    lines = refusal(edge.head(mqtt="password = 'horse'"), *GOOD[1:])
    assert "horse" not in "\n".join(lines)
    both = refusal(edge.head(mqtt="password_file = '/a'\npassword_env = 'B'"), *GOOD[1:])
    assert both == ["agent.toml: mqtt: password_file and password_env are both given; allowed: one of them"]


@pytest.mark.parametrize(
    ("clock", "message"),
    [
        ("speed = 10", "clock: speed 10 without origin; allowed: 1, or an origin in the past"),
        (
            'origin = "2022-06-14T00:00:00"',
            "clock: origin 2022-06-14T00:00:00 has no offset; allowed: such as 2022-06-14T00:00+08:00",
        ),
        ("speed = 0", "clock.speed: Input should be greater than 0 (found 0)"),
    ],
)
def test_a_clock_that_makes_no_sense_is_refused(clock: str, message: str) -> None:
    assert refusal(*GOOD, f"[clock]\n{clock}") == [f"agent.toml: {message}"]


def test_plant_time_follows_from_the_clock_settings() -> None:
    assert ClockConfig().time_base(5) == REAL_TIME
    assert not ClockConfig.model_validate({"origin": "", "anchor_us": "0", "speed": "1"}).simulated
    given = ClockConfig.model_validate({"origin": "2022-06-14T00:00:00+08:00", "anchor_us": "7", "speed": "1440"})
    base = given.time_base(5)
    assert (base.origin_us, base.anchor_us, base.speed) == (1_655_136_000 * US, 7, 1440.0)
    assert given.simulated
    assert ClockConfig.model_validate({"origin": "2022-06-14T00:00:00Z"}).time_base(5).anchor_us == 5


def test_a_models_field_can_be_renamed_and_changed() -> None:
    plan = edge.plan(
        edge.head(),
        edge.modbus(502),
        METER,
        '[[device.tag]]\nname = "active_power"\nscale = 40\n',
        '[[device.tag]]\nname = "l1"\nfield = "voltage_l1"\ngap_limit_s = 7\n',
    )
    found = {point.tag: point for point in plan.schema.points}
    assert list(found) == ["active_energy_import", "active_power", "l1"]
    assert (found["active_power"].scale, found["active_power"].unit) == (40, "W")
    assert (found["l1"].quantity, found["l1"].gap_limit_s, found["l1"].medium) == ("voltage", 7, "electricity")
    assert found["l1"].model == "eastron_sdm630"
    assert found["l1"].address == "input 0 float32"


def test_opcua_points_have_a_heartbeat_since_unchanged_values_are_not_repeated() -> None:
    plan = edge.plan(
        edge.head(),
        edge.opcua("opc.tcp://127.0.0.1:4840"),
        edge.device(
            "kiln",
            edge.node("a", "i=1"),
            edge.node("b", "i=2", extra="heartbeat_s = 2"),
            connection="dcs",
            unit_id=None,
        ),
    )
    assert [point.heartbeat_s for point in plan.schema.points] == [pytest.approx(10 / 3), 2]
    assert isinstance(plan.buses[0], OpcUaBus)


def test_the_sample_is_a_good_configuration_and_shows_every_key() -> None:
    text = config.sample()
    points.load(text, "sample.toml", {})
    # What is commented out is valid too.
    bare = "\n".join(
        line.removeprefix("# ") if " = " in line or line.startswith("# [") else line for line in text.splitlines()
    )
    shown = set(
        tomllib.loads("\n".join(line for line in bare.splitlines() if not line.startswith("# client_id"))).keys()
    )
    assert shown == set(config.AgentConfig.model_fields)
    for model in (config.Mqtt, config.Buffer, config.Batching, config.Polling, ClockConfig, config.Tls):
        for key in model.model_fields:
            assert f"{key} =" in text or f"{key}]" in text, key


def test_the_cement_plants_configuration_is_good() -> None:
    path = Path(__file__).parents[2] / "deploy" / "plants" / "cement" / "agent.toml"
    plan = points.load(path.read_text(encoding="utf-8"), "agent.toml", {})
    devices = {point.device for point in plan.schema.points}
    assert len(devices) == 26
    assert {bus.settings.name for bus in plan.buses} == {f"gateway_{letter}" for letter in "abcde"} | {"dcs"}
    assert all(point.gap_limit_s == 900 and point.poll_interval_s == 60 for point in plan.schema.points)
