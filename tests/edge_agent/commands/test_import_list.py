"""`edge-agent import`: lists as integrators have them become configurations that pass `check-config`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import points
from edge_agent.__main__ import main
from edge_agent.commands import import_list
from edge_agent.importing import columns, document
from edge_agent.importing.document import Options
from edge_agent.points import ModbusBus, Plan

GERMAN = """\
Zähler XY, Registerliste
Nr;Bezeichnung;Register;Datentyp;Einheit;Faktor;Funktionscode
1;Wirkarbeit Bezug;40001;uint32;kWh;0,01;3
2;Spannung L1;40003;uint16;0,1 V;;3
3;Reserviert;40004;uint16;;;3
4;Energie;40005;float;kWh;;3
"""
CHINESE = """\
参数名称,寄存器地址,数据类型,单位,倍率,功能码,站号,设备名称
正向有功电能,0x0000,无符号32位,kWh,0.01,03,1,1号水泥磨
A相电压,0x0002,无符号16位,V,0.1,03,1,1号水泥磨
正向有功电能,0x0000,无符号32位,kWh,0.01,03,2,2号水泥磨
"""


@pytest.fixture
def imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Plan | None, list[str]]]:
    """Exit code, plan of what was printed, messages without the file's name."""

    def run(text: str | Path, *arguments: str, encoding: str = "utf-8") -> tuple[int, Plan | None, list[str]]:
        path = text if isinstance(text, Path) else tmp_path / "list.csv"
        if isinstance(text, str):
            path.write_text(text, encoding=encoding)
        code = main(["import", str(path), *arguments])
        out, errors = capsys.readouterr()
        plan = points.load(out, "agent.toml", {}) if out else None
        return code, plan, [line.removeprefix(f"{path.name}: ") for line in errors.splitlines()]

    return run


def shown(plan: Plan | None) -> list[str]:
    assert plan is not None
    (bus,) = plan.buses
    assert isinstance(bus, ModbusBus)
    return [
        f"{device.name}({device.unit_id})/{tag.field.name}: {tag.field.table} {tag.field.address} {tag.field.type} "
        f"x{tag.field.scale:g} {tag.field.unit} {tag.field.quantity}"
        for device in bus.devices
        for tag in device.tags
    ]


def test_a_list_with_table_digits_becomes_tags_and_each_bad_line_is_told(
    imported: Callable[..., tuple[int, Plan | None, list[str]]],
) -> None:
    code, plan, messages = imported(GERMAN, "--device", "Mill 1", "--unit-id", "7")
    assert code == 1
    assert shown(plan) == [
        "mill_1(7)/wirkarbeit_bezug: holding 0 uint32 x0.01 kWh active_energy",
        "mill_1(7)/spannung_l1: holding 2 uint16 x0.1 V voltage",
    ]
    assert messages == [
        "addresses such as 40001 are taken as table and number: 40001 is holding register 0",
        "the list has no unit ids; 7 is taken",
        "columns without use here: Nr",
        "line 5: 'Reserviert' is reserved",
        "line 6: kWh may be active_energy or thermal_energy; allowed: a name that tells, --medium electricity or heat",
        "2 lines read, 2 not",
    ]


def test_a_chinese_list_with_devices_becomes_devices(
    imported: Callable[..., tuple[int, Plan | None, list[str]]],
) -> None:
    code, plan, messages = imported(CHINESE)
    assert shown(plan) == [
        "1号水泥磨(1)/正向有功电能: holding 0 uint32 x0.01 kWh active_energy",
        "1号水泥磨(1)/a相电压: holding 2 uint16 x0.1 V voltage",
        "2号水泥磨(2)/正向有功电能: holding 0 uint32 x0.01 kWh active_energy",
    ]
    assert (code, messages) == (0, ["3 lines read, 0 not"])


def test_another_encoding_is_asked_for_not_guessed(
    imported: Callable[..., tuple[int, Plan | None, list[str]]],
) -> None:
    code, plan, messages = imported(CHINESE, encoding="gb18030")
    assert (code, plan) == (2, None)
    assert "--encoding gb18030" in messages[0]
    code, plan, _ = imported(CHINESE, "--encoding", "gb18030", encoding="gb18030")
    assert code == 0


def test_a_workbook_is_read_with_merged_cells_and_another_sheet_first(
    imported: Callable[..., tuple[int, Plan | None, list[str]]], tmp_path: Path
) -> None:
    book = importlib.import_module("openpyxl").Workbook()
    book.active.append(["History", "2024-01-01"])
    sheet = book.create_sheet("Registers")
    sheet.append(["Device", "Slave ID", "Parameter", "Address", "Format", "Unit", "Scale", "Function"])
    sheet.append(["Kiln main", 3, "Active power", 10, "float32", "kW", None, 4])
    sheet.append([None, None, "Frequency", 12.0, "uint16", "Hz", 0.01, 4])
    sheet.merge_cells("A2:A3")
    sheet.merge_cells("B2:B3")
    path = tmp_path / "list.xlsx"
    book.save(path)
    code, plan, messages = imported(path)
    assert shown(plan) == [
        "kiln_main(3)/active_power: input 10 float32 x1 kW active_power",
        "kiln_main(3)/frequency: input 12 uint16 x0.01 Hz frequency",
    ]
    assert code == 0
    assert messages == ["the first register is called 0; if it is not, use --base", "2 lines read, 0 not"]


def test_without_openpyxl_the_way_out_is_told(
    imported: Callable[..., tuple[int, Plan | None, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    path = tmp_path / "list.xlsx"
    path.write_bytes(b"PK")
    code, _, messages = imported(path)
    assert code == 2
    assert messages == [f"{path}: needs openpyxl; pip install 'metercarbon[import]', or save it as CSV"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Voltage,,uint16,V,,3", "no address ('Voltage')"),
        ("Voltage,abc,uint16,V,,3", "address 'abc' can't be read; allowed: such as 100, 0x64, 64h"),
        ("Voltage,5,text,V,,3", "type 'text' can't be read"),
        ("Voltage,5,uint16,V,CT*PT,3", "number 'CT*PT' can't be read"),
        ("Voltage,5,uint16,furlong,,3", "unit 'furlong' can't be read"),
        ("Voltage,5,uint16,V,,16", "table '16' can't be read"),
        ("Voltage,5,uint16,V,,", "the table of address '5' is not told; allowed: --table holding or input"),
        ("Voltage,65535,uint32,V,,3", "address 65535 with 2 registers; allowed: up to 65534"),
        ("Voltage,5,uint16,0.1V,0.2,3", "several factors: 0.2, 0.1; allowed: one"),
        ("Voltage,5,uint16,V,0,3", "scale 0 would make every value 0"),
        ("Voltage,5,bool,V,,3", "type 'bool' in table 'holding'; allowed: all but bool"),
        ("Current,1,uint16,A,,3", "holding 1 of unit id 1 is in line 2 already"),
        ("Known,9,uint16,A,,3", "name 'known' is in line 2 already"),
        ("Current,40001,uint16,A,,3", "address '40001' may begin with a table digit"),
        ("???,9,uint16,A,,3", "name '???' has no letter or digit"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_with_the_reason(
    line: str, reason: str, imported: Callable[..., tuple[int, Plan | None, list[str]]]
) -> None:
    text = f"Name,Address,Type,Unit,Scale,Function\nKnown,0,uint32,A,,3\n{line}\n"
    code, plan, messages = imported(text)
    assert code == 1
    assert len(shown(plan)) == 1
    (told,) = [message for message in messages if message.startswith("line ")]
    assert told.startswith(f"line 3: {reason}")


def test_a_list_in_which_nothing_can_be_read_ends_with_two(
    imported: Callable[..., tuple[int, Plan | None, list[str]]], tmp_path: Path
) -> None:
    for text in ("", "a,b\n1,2\n", "Name,Address,Type\nx,y,z\n"):
        code, plan, messages = imported(text)
        assert (code, plan) == (2, None)
        assert messages
    for name, content in (("none.csv", None), ("list.pdf", b"%PDF"), ("list.xlsx", b"no workbook")):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        code, plan, messages = imported(path)
        assert (code, plan) == (2, None)
        assert name in messages[0]


def test_the_file_is_written_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "list.csv", tmp_path / "agent.toml"
    path.write_text(CHINESE, encoding="utf-8")
    assert main(["import", str(path), "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert main(["check-config", str(out)]) == 0
    written = out.read_text(encoding="utf-8")
    assert main(["import", str(path), "--out", str(out)]) == 2
    assert out.read_text(encoding="utf-8") == written


def test_columns_that_say_how_values_are_divided_are_used(
    imported: Callable[..., tuple[int, Plan | None, list[str]]],
) -> None:
    text = (
        "Name,Address,Type,Unit,Divisor,Decimals,Gain,Length,Byte order\n"
        "Voltage,0,int,V,10,,,1,\nCurrent,1,int,A,,2,,2,CDAB\nFrequency,3,int,Hz,,,1,1,\nFrequency 2,4,int,Hz,,,10,1,\n"
    )
    code, plan, messages = imported(text, "--table", "input", "--base", "0")
    assert code == 1
    assert [line.split(": ")[1] for line in shown(plan)] == [
        "input 0 int16 x0.1 V voltage",
        "input 1 int32 x0.01 A current",
        "input 3 int16 x1 Hz frequency",
    ]
    assert plan is not None
    assert isinstance(plan.buses[0], ModbusBus)
    assert plan.buses[0].devices[0].tags[1].word_order == "little"
    assert "line 5: gain '10' may multiply or divide; allowed: a column scale or divisor" in messages


TEXT = st.text(max_size=12)
LIKELY = st.tuples(
    st.sampled_from(["Voltage", "Current L1", "Active energy", "a b", "A-B"]),
    st.sampled_from(["900", "901", "0x385", "902-903", "65535"]),
    st.sampled_from(["uint16", "uint32", "float", "float CDAB"]),
    st.sampled_from(["V", "A", "kWh", "0.1 V"]),
    st.sampled_from(["", "0.1", "1/10"]),
    st.sampled_from(["3", "4"]),
    st.sampled_from(["1", "2", ""]),
    st.sampled_from(["mill", "Mill", "mill_1", "mill_2", ""]),
).map(list)
ROW = st.one_of(LIKELY, st.lists(TEXT, min_size=8, max_size=8))


@given(st.lists(ROW, max_size=12))
def test_whatever_a_list_says_what_is_written_passes_the_check(rows: list[list[str]]) -> None:
    head = ["name", "address", "type", "unit", "scale", "function", "slave", "device"]
    good = ["Voltage", "900", "uint16", "V", "", "3", "1", "mill"]
    table = [head, good, *rows]
    found = columns.find(table)
    assert found is not None
    result = document.lines(table, found, Options("list"))
    assert result.read + len(result.problems) == 1 + sum(any(cell.strip() for cell in row) for row in rows)
    if result.read:
        plan = points.load(document.toml(result, Options("list")), "agent.toml", {})
        assert len(plan.schema.points) == result.read


def test_the_text_is_the_same_as_what_the_command_checks(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(CHINESE, encoding="utf-8")
    found = import_list.run(path, Options("list", host='h"\\é', port=1502))
    plan = points.load(found.text, "agent.toml", {})
    settings = plan.buses[0].settings
    assert getattr(settings, "host", None) == 'h"\\é'
    assert found.complete
