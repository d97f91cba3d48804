"""`edge-agent scan modbus` against real sockets and ports, with units that behave and units that do not."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import time
import tomllib
from pathlib import Path

import pytest
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from edge_agent.config import ModbusRtu
from edge_agent.points import ModbusBus
from edge_agent.scanning import line
from protocols.meters import catalogue
from tests.edge_agent.scanning.conftest import Check, Ended, Scan
from tests.edge_agent.scanning.scanned import Bus, Unit, holding, meter, serial_port
from tests.support import edge
from tests.support.modbus_responder import After, Asked, Reply
from tests.support.serial_lines import Asked as SerialAsked
from tests.support.serial_lines import TcpLine, null_modem

READS = {1, 2, 3, 4, 0x2B}
FEW = ("--registers", "0-20", "--no-models")
FAST = ("--timeout-s", "1", "--pause-ms", "0")
"""For units that all answer: nobody is waited for."""
SHORT = ("--timeout-s", "0.1", "--pause-ms", "0")
"""Where someone is silent."""
SHORTER = ("--timeout-s", "0.05", "--pause-ms", "0")
"""Where an answer that is missed is of no consequence, or is asked for again."""
SHORTEST = ("--timeout-s", "0.03", "--pause-ms", "0")
"""Where nobody answers."""


async def scanned(scan: Scan, bus: Bus, *arguments: str) -> Ended:
    async with bus:
        found = await scan("modbus", "--tcp", f"127.0.0.1:{bus.port}", *FAST, *arguments)
    assert set(bus.functions) <= READS
    return found


def answering(found: Ended) -> list[int]:
    return [int(number) for number in re.findall(r"^unit (\d+):", found.out, re.MULTILINE)]


def tables(found: Ended) -> list[str]:
    return [line.strip() for line in found.lines if re.match(r"  (holding|input|coil|discrete):", line)]


# Who is there


async def test_any_answer_counts_a_refusal_too(scan: Scan) -> None:
    units = {2: holding((0, 5)), 5: Unit(), 7: holding((100, 110)), 9: meter("eastron_sdm630")}
    found = await scanned(scan, Bus(units), "--units", "2,5,7-9", *SHORTER, *FEW)
    assert found.code == 0
    assert answering(found) == [2, 5, 7, 9]
    assert "unit 2: holding 0: readable" in found.lines
    assert "unit 5: holding 0: exception 1 (illegal function)" in found.lines
    assert "unit 7: holding 0: exception 2 (illegal data address)" in found.lines
    assert "unit 2 answers" in found.told


async def test_nothing_found_ends_with_one(scan: Scan) -> None:
    found = await scanned(scan, Bus({}), "--units", "1-2", *SHORTEST, *FEW)
    assert found.code == 1
    assert found.lines[0].startswith("0 of 2 unit ids answer")
    assert found.told == "", "only on a shared line is there silence to wait for"


async def test_without_a_connection_a_scan_ends_with_one_and_says_so(scan: Scan) -> None:
    found = await scan("modbus", "--tcp", "127.0.0.1:1")
    assert found == Ended(1, "", "cannot connect to 127.0.0.1:1\n")
    found = await scan("modbus", "--serial", "/dev/none")
    assert (found.code, found.told) == (1, "cannot connect to /dev/none, 9600 Bd 8N1: there is no /dev/none\n")


async def test_a_unit_that_answers_late_is_found_and_not_taken_for_another(scan: Scan) -> None:
    slow = holding((0, 9))

    def late(asked: Asked) -> Reply:
        pdu = slow.pdu(asked)
        assert pdu is not None
        return After(0.12, asked.frame(pdu)) if asked.unit == 3 else None

    arguments = (
        "--units",
        "3-4,6",
        "--timeout-s",
        "0.07",
        "--pause-ms",
        "0",
        "--registers",
        "0-9",
        "--no-models",
        "--no-identify",
        "--table",
        "holding",
    )
    found = await scanned(scan, Bus({6: holding((0, 3))}, late), *arguments)
    assert answering(found) == [3, 6]
    assert tables(found) == ["holding: 0 to 9", "holding: 0 to 3"]
    assert re.search(r"note: unit 3 took 0\.\d s to answer; give it more time, by --timeout-s", found.out)


async def test_answers_with_a_wrong_transaction_id_are_no_unit_but_told(scan: Scan) -> None:
    def wrong(asked: Asked) -> Reply:
        return asked.answer([1] * asked.count, transaction=asked.transaction + 9) if asked.unit == 3 else None

    found = await scanned(scan, Bus({6: holding((0, 3))}, wrong), "--units", "3,6", *SHORTER, *FEW)
    assert answering(found) == [6]
    assert "note: unit 3: something came that answers no request in time" in found.out


async def test_answers_of_another_unit_are_no_unit(scan: Scan) -> None:
    def wrong(asked: Asked) -> Reply:
        return asked.answer([1] * asked.count, unit=99) if asked.unit == 3 else None

    found = await scanned(scan, Bus({}, wrong), "--units", "3", *SHORTEST, *FEW)
    assert found.code == 1
    assert answering(found) == []


async def test_units_that_only_the_gateway_answers_for_are_not_there(scan: Scan) -> None:
    def gateway(asked: Asked) -> Reply:
        return None if asked.unit == 4 else asked.refusal(11 if asked.unit % 2 else 10)

    bus = Bus({4: holding((0, 3))}, gateway)
    found = await scanned(scan, bus, "--units", "1-6", *FEW)
    assert answering(found) == [4]
    assert "note: a gateway says of 5 unit ids that they do not answer it" in found.lines
    assert sum(1 for asked in bus.asked if asked.unit == 1) == 1


async def test_a_unit_that_is_busy_is_asked_again(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "_BUSY_S", 0.01)
    busy = iter([6, 5])

    def odd(asked: Asked) -> Reply:
        code = next(busy, None)
        return None if code is None else asked.refusal(code)

    found = await scanned(scan, Bus({4: holding((0, 3))}, odd), "--units", "4", *FEW)
    assert "unit 4: holding 0: readable" in found.lines


async def test_a_device_that_hangs_up_on_others_ids_is_found(scan: Scan) -> None:
    def hang_up(asked: Asked) -> Reply:
        return None if asked.unit == 3 else After(0, None)

    found = await scanned(scan, Bus({3: holding((0, 3))}, hang_up), "--units", "2-3", *SHORT, *FEW)
    assert answering(found) == [3]
    assert tables(found)[0] == "holding: 0 to 3"


async def test_a_device_that_does_not_look_at_unit_ids_is_looked_into_once(scan: Scan) -> None:
    device = holding((0, 9))
    bus = Bus(dict.fromkeys(range(256), device))
    found = await scanned(scan, bus, *FEW)
    assert "note: all 248 unit ids answer: most likely one device that does not look at them" in found.out
    assert answering(found) == [1]
    assert len(bus.asked) < 300


async def test_the_connection_is_one_and_requests_come_one_at_a_time_with_pauses(scan: Scan) -> None:
    waiting = 0
    most = 0
    times: list[float] = []

    class Watching(Bus):
        def _send(self, writer: asyncio.StreamWriter, part: bytes | After | None) -> None:
            nonlocal waiting
            waiting -= 1
            times.append(time.monotonic())
            super()._send(writer, part)

    def count(_: Asked) -> Reply:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        times.append(time.monotonic())
        return None

    bus = Watching(dict.fromkeys((1, 2), holding((0, 9))), count)
    async with bus:
        arguments = ("--units", "1-2", "--pause-ms", "30", "--no-models", "--registers", "0-5", "--table", "holding")
        found = await scan("modbus", "--tcp", f"127.0.0.1:{bus.port}", *arguments)
    assert found.code == 0
    assert bus.connections == 1
    assert most == 1
    answered, asked = times[1::2], times[2::2]
    assert min(later - earlier for earlier, later in zip(answered, asked, strict=False)) >= 0.025


# What it has


async def test_readable_ranges_of_all_tables_are_found(scan: Scan) -> None:
    unit = Unit(
        {
            "holding": dict.fromkeys([*range(81), *range(342, 381), 1000, 1001], 7),
            "input": dict.fromkeys(range(256, 300), 7),
            "coil": dict.fromkeys(range(20), 1),
            "discrete": dict.fromkeys(range(5, 9), 1),
        }
    )
    arguments = ("--units", "1", "--no-models", "--registers", "0-1100", "--table", "holding", "input", "coil")
    found = await scanned(scan, Bus({1: unit}), *arguments, "discrete")
    ranges = [line.partition(" (")[0] for line in tables(found)]
    assert ranges == ["holding: 0 to 80, 342 to 380, 1000 to 1001", "input: 256 to 299", "coil: 0 to 19",
                      "discrete: 5 to 8"]  # fmt: skip


async def test_requests_stay_within_the_budget_and_what_may_be_missed_is_told(scan: Scan) -> None:
    bus = Bus({1: holding((0, 80)), 2: holding((0, 80))})
    found = await scanned(scan, bus, "--units", "1-2", "--max-requests", "150", "--no-identify", "--table", "holding")
    assert len(bus.asked) <= 150
    assert len({asked.unit for asked in bus.asked[-70:]}) == 1, "each unit has its share"
    assert re.search(r"holding: 0 to 80.*runs of up to \d+ may have been missed", found.out)


async def test_a_budget_too_small_for_all_unit_ids_is_told(scan: Scan) -> None:
    bus = Bus({})
    found = await scanned(scan, bus, "--units", "1-9", "--max-requests", "4", *SHORTEST)
    assert found.code == 1
    assert len(bus.asked) == 4
    assert "not all unit ids were asked: 4 requests were made; allowed: --max-requests 4" in found.out


async def test_a_unit_that_says_nothing_where_others_refuse_is_searched_for_a_while(scan: Scan) -> None:
    unit = holding((0, 9))
    unit.silent_where_refused = True
    found = await scanned(scan, Bus({1: unit}), "--units", "1", "--registers", "0-300", "--no-models",
                          "--table", "holding", "--no-identify", *SHORTER)  # fmt: skip
    (table,) = tables(found)
    assert table.startswith("holding: 0 to 9 (the unit says nothing where others refuse")


async def test_a_unit_that_dies_meanwhile_does_not_hold_up_the_scan(scan: Scan) -> None:
    left = iter(range(6))

    def dies(asked: Asked) -> Reply:
        return () if asked.unit == 1 and next(left, None) is None else None

    bus = Bus({1: holding((0, 9)), 2: holding((0, 9))}, dies)
    found = await scanned(scan, bus, "--units", "1-2", *SHORTER, *FEW, "--table", "holding")
    first, second = tables(found)
    assert "the unit stopped answering" in first
    assert second == "holding: 0 to 9"


async def test_answers_of_a_wrong_length_are_not_readable(scan: Scan) -> None:
    def short(asked: Asked) -> Reply:
        return asked.frame(bytes([asked.function, 4, 0, 0, 0, 0]))

    found = await scanned(scan, Bus({}, short), "--units", "1", *FEW, "--table", "holding", "--no-identify")
    assert "unit 1: holding 0: an answer of another length" in found.lines


# What it is


@pytest.mark.parametrize("name", catalogue.names())
async def test_every_model_is_recognised_by_its_registers(scan: Scan, name: str) -> None:
    bus = Bus({3: meter(name)})
    found = await scanned(scan, bus, "--units", "3", "--registers", "0", "--json")
    (unit,) = json.loads(found.out)["units"]
    (candidate,) = [one for one in unit["could_be"] if one["model"] == name]
    values = {one.name: candidate["values"][one.name] for one in catalogue.model(name).fields}
    assert all(value["value"] is not None for value in values.values())
    assert candidate["not_zero"] == candidate["fields"] == len(values)


async def test_a_candidate_is_shown_with_its_values(scan: Scan) -> None:
    found = await scanned(scan, Bus({3: meter("abb_b23", {"voltage_l2": None})}), "--units", "3", "--registers", "0")
    text = found.out
    assert "could be abb_b23 (ABB B23/B24): all 14 fields are readable and plausible, 13 of them not zero" in text
    assert "    voltage_l1 = 231.5 V (holding 23296)\n" in text
    assert "    voltage_l2: no value (holding 23298)\n" in text
    assert "    frequency = 50.02 Hz (holding 23340)\n" in text
    assert "  holding: 20480 to 20487, 23296 to 23301" in text, "what was read on the way is known too"


@pytest.mark.parametrize(
    "values",
    [
        {"frequency": 0.0},
        {"frequency": 70.0},
        {"voltage_l1": 3.0},
        {"voltage_l1": float("nan")},
        {"current_l1": float("inf")},
        {"power_factor": 95.0},
        {"active_energy_import": -5.0},
        {"active_power": 1e-30},
    ],
)
async def test_absurd_values_speak_against_a_model(scan: Scan, values: dict[str, float]) -> None:
    found = await scanned(scan, Bus({3: meter("eastron_sdm630", values)}), "--units", "3", "--registers", "0", "--json")
    (unit,) = json.loads(found.out)["units"]
    assert "eastron_sdm630" not in [one["model"] for one in unit["could_be"]]


async def test_all_ones_that_no_model_declares_speak_against_it(scan: Scan) -> None:
    unit = meter("suto_s430")
    model = catalogue.model("suto_s430")
    count = next(one for one in model.fields if one.type == "uint32")
    assert count.no_value is None
    for n in range(2):
        unit.tables["holding"][count.address + n] = 0xFFFF
    found = await scanned(scan, Bus({3: unit}), "--units", "3", "--registers", "0", "--json")
    (one,) = json.loads(found.out)["units"]
    assert "suto_s430" not in [candidate["model"] for candidate in one["could_be"]]


@pytest.mark.parametrize("word", [0, 0xFFFF])
async def test_a_device_that_gives_the_same_everywhere_is_no_model(scan: Scan, word: int) -> None:
    everywhere = dict.fromkeys(range(65_536), word)
    found = await scanned(scan, Bus({3: Unit({"holding": everywhere, "input": everywhere})}), "--units", "3",
                          "--registers", "0-200")  # fmt: skip
    assert "could be" not in found.out
    assert "  fits no model of the catalogue" in found.lines


async def test_what_a_unit_says_of_itself_is_shown_and_counts(scan: Scan) -> None:
    unit = meter("eastron_sdm630")
    unit.identification = {0: "Eastron Ltd", 1: "SDM630", 2: "V1.8", 4: "Meter", 5: "SDM\x01630"}
    found = await scanned(scan, Bus({3: unit, 4: holding((0, 3))}), "--units", "3-4", "--registers", "0")
    assert (
        "  says it is: vendor 'Eastron Ltd', product 'SDM630', revision 'V1.8', product_name 'Meter', model 'SDM?630'"
    ) in found.lines
    assert "its identification names the maker and the model" in found.out


async def test_an_identification_in_parts_is_put_together(scan: Scan) -> None:
    unit = holding((0, 3))
    unit.identification = {0: "V" * 200, 1: "P" * 100, 2: "R" * 30}
    found = await scanned(scan, Bus({3: unit}), "--units", "3", *FEW, "--json")
    (one,) = json.loads(found.out)["units"]
    assert one["identification"] == {"vendor": "V" * 200, "product": "P" * 100, "revision": "R" * 30}


@pytest.mark.parametrize("body", [b"", b"\x0e", b"\x0e\x01\x82\xff\x00\x01\x00\xf0abc", b"\x0e\x01\x82\xff\x00\x09"])
async def test_an_identification_without_sense_is_passed_over(scan: Scan, body: bytes) -> None:
    class Odd(Unit):
        def identify(self, category: int, first: int, room: int = 240) -> bytes:
            return bytes([0x2B]) + body

    found = await scanned(scan, Bus({3: Odd({"holding": {0: 1}})}), "--units", "3", *FEW, "--table", "holding")
    assert found.code == 0
    assert tables(found) == ["holding: 0"]
    assert "says it is" not in found.out


async def test_a_real_server_is_scanned_and_identified(scan: Scan, unused_tcp_port: int) -> None:
    words = list(struct.unpack(">40H", struct.pack(">20f", *[1.5] * 20)))
    bits = [SimData(0, values=[True] * 16, datatype=DataType.BITS)]
    device = SimDevice(
        17,
        (bits, bits, [SimData(10, values=words, datatype=DataType.REGISTERS)],
         [SimData(0, values=words, datatype=DataType.REGISTERS)]),
    )  # fmt: skip
    server = ModbusTcpServer([device], address=("127.0.0.1", unused_tcp_port))
    await server.serve_forever(background=True)
    try:
        found = await scan("modbus", "--tcp", f"127.0.0.1:{unused_tcp_port}", *FAST, "--units", "17", "--registers",
                           "0-300", "--table", "holding", "input", "coil")  # fmt: skip
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]
    assert found.code == 0
    assert 17 in answering(found)
    assert {"holding: 10 to 49", "input: 0 to 39"} <= {line.partition(" (")[0] for line in tables(found)}


# As configuration


async def test_the_fragment_passes_check_config(scan: Scan, check_config: Check) -> None:
    sdm = meter("eastron_sdm630")
    sdm.most = 30
    bus = Bus({3: sdm, 9: meter("abb_b23"), 11: Unit()})
    found = await scanned(scan, bus, "--units", "3,9,11", "--registers", "0-100", "--agent-toml")
    code, said = await check_config(found.out)
    assert code == 0, said
    assert "32 points of 2 devices on 1 connections" in said
    (connection,) = tomllib.loads(found.out)["connection"]
    assert connection == {"name": "bus", "protocol": "modbus-tcp", "host": "127.0.0.1", "port": bus.port}
    devices = tomllib.loads(found.out)["device"]
    assert [(one["name"], one["unit_id"], one["model"]) for one in devices] == [
        ("unit_3", 3, "eastron_sdm630"),
        ("unit_9", 9, "abb_b23"),
    ]
    assert (
        "unit 11: fits no model of the catalogue; make a register list of it, and use `edge-agent import`" in found.told
    )
    assert "# unit_id = 11" in found.lines


async def test_a_limit_that_was_found_goes_into_the_fragment(scan: Scan) -> None:
    unit = meter("eastron_sdm630")
    unit.most = 20
    for address in range(100):
        unit.tables["input"].setdefault(address, 0)
    found = await scanned(scan, Bus({3: unit}), "--units", "3", "--registers", "0-99", "--agent-toml")
    (bus,) = found.plan().buses
    assert isinstance(bus, ModbusBus)
    assert bus.devices[0].limits.max_registers == 20
    assert max(request.count for request in bus.devices[0].requests) <= 20


async def test_a_doubtful_model_is_only_a_comment(scan: Scan) -> None:
    # Integers alone: they are plausible almost anywhere.
    bus = Bus({3: meter("spirax_tva")})
    found = await scanned(scan, bus, "--units", "3", "--registers", "0-99", "--agent-toml")
    assert "device" not in tomllib.loads(found.out)
    assert '# model = "' in found.out
    assert "could be" in found.told
    assert "its values do not tell; see its nameplate" in found.told


async def test_a_slow_unit_gets_its_time_in_the_fragment(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "names", lambda: ["eastron_sdm230"])
    slow = meter("eastron_sdm230")

    def late(asked: Asked) -> Reply:
        pdu = slow.pdu(asked)
        return None if pdu is None or asked.unit != 3 else After(0.04, asked.frame(pdu))

    async with Bus({}, late) as bus:
        path = tmp_path / "agent.toml"
        path.write_text(edge.modbus(bus.port, "hall", "timeout_s = 0.03"), encoding="utf-8")
        arguments = ("--units", "3-4", "--registers", "0", "--no-identify", "--pause-ms", "0", "--timeout-s", "0.03")
        found = await scan("modbus", "--config", str(path), "--agent-toml", *arguments)
    (connection,) = tomllib.loads(found.out)["connection"]
    assert connection["name"] == "hall"
    assert 0.04 < connection["timeout_s"] <= 0.3
    assert tomllib.loads(found.out)["device"][0]["connection"] == "hall"


# Serial lines


@pytest.fixture
def none_is_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """For units that hear every request; those that do not are those on libmodbus."""
    monkeypatch.setattr(line, "DEAF_S", 0.05)


@pytest.mark.usefixtures("none_is_deaf")
async def test_a_serial_port_is_scanned(scan: Scan, check_config: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "names", lambda: ["abb_b23", "eastron_sdm230"])
    sdm = meter("eastron_sdm230")
    sdm.identification = {0: "Eastron", 1: "P" * 40, 2: "R" * 40, 4: "N" * 10}
    async with serial_port({3: sdm, 4: holding((0, 9))}) as port:
        arguments = ("--units", "3-5", "--registers", "0-20", "--agent-toml", *SHORTER)
        found = await scan("modbus", "--serial", port.port, "--baudrate", "115200", "--stopbits", "2", *arguments)
        assert port.units.broken == 0
    assert found.code == 0
    code, said = await check_config(found.out)
    assert code == 0, said
    (bus,) = found.plan().buses
    assert isinstance(bus.settings, ModbusRtu)
    assert (bus.settings.port, bus.settings.baudrate, bus.settings.stopbits) == (port.port, 115_200, 2)
    assert [device.name for device in bus.devices] == ["unit_3"]
    assert f"unit 3 says it is Eastron, {'P' * 40}, {'R' * 40}, {'N' * 10}" in found.told


@pytest.mark.usefixtures("none_is_deaf")
async def test_a_late_unit_of_a_serial_line_is_found_and_not_taken_for_another(scan: Scan) -> None:
    slow = holding((0, 9))

    def late(asked: SerialAsked) -> Reply:
        pdu = slow.pdu(asked)
        return After(0.09, asked.frame(pdu)) if asked.unit == 3 and pdu is not None else None

    async with serial_port({5: holding((0, 3))}, late) as port:
        arguments = ("--units", "3-5", "--registers", "0-9", "--no-models", "--no-identify", "--table", "holding")
        speed = ("--baudrate", "115200", "--timeout-s", "0.06", "--pause-ms", "5")
        found = await scan("modbus", "--serial", port.port, *speed, *arguments)
    assert answering(found) == [3, 5]
    assert tables(found) == ["holding: 0 to 9", "holding: 0 to 3"]


@pytest.mark.usefixtures("none_is_deaf")
async def test_serial_frames_over_tcp_are_scanned(scan: Scan) -> None:
    unit = holding((0, 9))

    def answer(asked: SerialAsked) -> Reply:
        pdu = unit.pdu(asked)
        return asked.frame(pdu) if asked.unit == 3 and pdu is not None else None

    async with TcpLine(answer) as units:
        found = await scan("modbus", "--rtu-tcp", f"127.0.0.1:{units.port}", *SHORTER, "--units", "3-4", *FEW,
                           "--no-identify", "--json")  # fmt: skip
    document = json.loads(found.out)
    assert document["connection"]["protocol"] == "modbus-rtu-tcp"
    assert [unit["unit_id"] for unit in document["units"]] == [3]
    assert document["units"][0]["tables"][0]["readable"] == [{"first": 0, "last": 9}]


async def test_a_real_serial_server_is_scanned_and_identified(scan: Scan) -> None:
    registers = [SimData(0, values=[7] * 20, datatype=DataType.REGISTERS)]
    bits = [SimData(0, values=[True] * 16, datatype=DataType.BITS)]
    device = SimDevice(3, (bits, bits, registers, registers))
    with null_modem() as (near, far):
        server = ModbusSerialServer([device], port=far, baudrate=115_200)
        await server.serve_forever(background=True)
        try:
            found = await scan("modbus", "--serial", near, "--baudrate", "115200", *FAST, "--units", "3", *FEW)
        finally:
            await server.shutdown()  # type: ignore[no-untyped-call]
    assert tables(found) == ["holding: 0 to 19", "input: 0 to 19"]


# Usage


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--tcp", "a:b"), "--tcp 'a:b'; allowed: host, host:port or [address]:port"),
        (("--tcp", "a:99999"), "--tcp: port: Input should be less than or equal to 65535 (found 99999)"),
        (("--rtu-tcp", "a"), "--rtu-tcp 'a'; allowed: host:port or [address]:port"),
        (("--tcp", "a", "--units", "1-256"), "--units '1-256'; allowed: 0 to 255, such as 1-10,20"),
        (("--serial", "p", "--units", "0"), "--units '0'; allowed: 1 to 247, such as 1-10,20"),
        (("--tcp", "a", "--units", "9-1"), "--units '9-1'; allowed: 0 to 255, such as 1-10,20"),
        (("--tcp", "a", "--registers", "5-70000"), "--registers '5-70000'; allowed: within 0-65535, such as 0-9999"),
        (("--serial", "p", "--baudrate", "1"), "--serial: baudrate: Input should be greater than or equal to 300"),
        (("--config", "/nowhere.toml"), "/nowhere.toml: [Errno 2]"),
    ],
)
async def test_wrong_usage_ends_with_two_and_says_what_is_allowed(
    scan: Scan, arguments: tuple[str, ...], told: str
) -> None:
    found = await scan("modbus", *arguments)
    assert (found.code, found.out) == (2, "")
    assert found.told.startswith(told)


async def test_a_connection_of_a_configuration_must_fit(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(edge.modbus(1, "hall") + edge.modbus(2, "roof") + edge.opcua("opc.tcp://h"), encoding="utf-8")
    for name, told in (
        ((), "--connection is missing; allowed: hall, roof, dcs"),
        (("--connection", "cellar"), "--connection 'cellar'; allowed: hall, roof, dcs"),
        (("--connection", "dcs"), "connection 'dcs' is OPC-UA; allowed: a Modbus connection, or scan opcua"),
    ):
        found = await scan("modbus", "--config", str(path), *name)
        assert (found.code, found.told.strip()) == (2, told)
    path.write_text("[[connection]]\nname = 5", encoding="utf-8")
    found = await scan("modbus", "--config", str(path))
    assert found.code == 2
    assert "agent.toml: connection" in found.told
