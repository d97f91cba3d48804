"""Single cells of register lists: what they mean, and that what may mean two things is refused."""

from __future__ import annotations

import pytest

from edge_agent.importing import cells, columns
from edge_agent.importing.cells import Address, CellError
from edge_agent.importing.meaning import Meaning, tell
from protocols.quantities import QUANTITIES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100", Address(100, plain=True)),
        ("0x64", Address(100)),
        ("64h", Address(100)),
        ("40001", Address(40_001, plain=True)),
        ("4x0101", Address(100, "holding")),
        ("3:00007", Address(6, "input")),
        ("100-101", Address(100, None, 2, plain=True)),
        ("0x10~0x13", Address(16, None, 4)),
    ],
)
def test_addresses_are_read(text: str, expected: Address) -> None:
    assert cells.address(text, modicon=False, base=0) == expected


@pytest.mark.parametrize(
    ("text", "table", "number"),
    [
        ("40001", "holding", 0),
        ("400001", "holding", 0),
        ("30073", "input", 72),
        ("10010", "discrete", 9),
        ("00001", "coil", 0),
        ("465536", "holding", 65535),
    ],
)
def test_a_leading_table_digit_is_read(text: str, table: str, number: int) -> None:
    assert cells.looks_modicon(text)
    found = cells.address(text, modicon=True, base=1)
    assert (found.table, found.number) == (table, number)


def test_a_list_that_counts_from_one_is_moved() -> None:
    assert cells.address("1", modicon=False, base=1).number == 0
    assert cells.address("0x10", modicon=False, base=1).number == 15


def test_in_a_hexadecimal_list_all_bare_numbers_are_hexadecimal() -> None:
    assert cells.is_bare_hex("00FA")
    assert cells.is_bare_hex("00FA-00FB")
    assert not cells.is_bare_hex("1000")
    assert not cells.is_bare_hex("abc")
    assert not cells.is_bare_hex("0x10")
    assert cells.address("0064", modicon=False, base=0, hexadecimal=True) == Address(100)
    assert cells.address("FA-FB", modicon=False, base=0, hexadecimal=True) == Address(250, None, 2)
    found = columns.find([("Name", "Address (hex)")])
    assert found is not None
    assert found.hexadecimal


@pytest.mark.parametrize("text", ["", "x", "00FA", "70000", "4.5", "12-10", "-5", "4x70000", "１２"])
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(CellError):
        cells.address(text, modicon=False, base=0)


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("uint16", None, "uint16"),
        ("U16", None, "uint16"),
        ("Unsigned 32 bit", 2, "uint32"),
        ("S32", None, "int32"),
        ("int", 2, "int32"),
        ("UINT", 1, "uint16"),
        ("UDINT", None, "uint32"),
        ("DWORD", None, "uint32"),
        ("float", None, "float32"),
        ("FLOAT32 CDAB", 2, "float32"),
        ("IEEE 754", None, "float32"),
        ("float", 4, "float64"),
        ("Float 64", None, "float64"),
        ("double", None, "float64"),
        ("real", 2, "float32"),
        ("浮点数", None, "float32"),
        ("无符号整型", 2, "uint32"),
        ("有符号16位", None, "int16"),
        ("bit", None, "bool"),
        ("unsigned short", None, "uint16"),
        ("long", None, "int32"),
        ("INT64", 4, "int64"),
        ("word", 1, "uint16"),
    ],
)
def test_types_are_read(text: str, count: int | None, expected: str) -> None:
    assert cells.register_type(text, count) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", None),
        ("int", None),
        ("UINT", None),
        ("string", 8),
        ("BCD", 2),
        ("date time", 4),
        ("colour", None),
        ("uint16", 2),
        ("float", 1),
        ("float 16", None),
        ("uint48", 3),
    ],
)
def test_a_type_that_does_not_tell_is_refused(text: str, count: int | None) -> None:
    with pytest.raises(CellError):
        cells.register_type(text, count)


def test_word_and_byte_orders_are_read() -> None:
    assert cells.orders("", "float CDAB") == ("little", "big")
    assert cells.orders("DCBA") == ("little", "little")
    assert cells.orders("word swap") == ("little", "big")
    assert cells.orders("", "uint32") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", "holding"),
        ("0x04", "input"),
        ("FC03", "holding"),
        ("03/16", "holding"),
        ("01", "coil"),
        ("", None),
        ("Input register", "input"),
        ("Discrete Input", "discrete"),
        ("保持寄存器", "holding"),
        ("4x", "holding"),
    ],
)
def test_tables_are_read(text: str, expected: str | None) -> None:
    assert cells.table(text) == expected


@pytest.mark.parametrize("text", ["16", "R/W", "7"])
def test_a_function_that_does_not_read_is_refused(text: str) -> None:
    with pytest.raises(CellError):
        cells.table(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1", 0.1),
        ("0,01", 0.01),
        ("×0.1", 0.1),
        ("1/10", 0.1),
        ("/100", 0.01),
        ("10^-2", 0.01),
        ("x10", 10.0),
        ("1e-3", 0.001),
        ("1", 1.0),
    ],
)
def test_factors_are_read(text: str, expected: float) -> None:
    assert cells.factor(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["1,000", "1.000,5", "a", "1/0", "nan", "1e99", "CT*PT"])
def test_a_factor_that_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(CellError):
        cells.factor(text)


@pytest.mark.parametrize(
    ("text", "symbol", "factor"),
    [
        ("kWh", "kWh", 1),
        ("KWH", "kWh", 1),
        ("kwh", "kWh", 1),
        ("MWh", "MWh", 1),
        ("MWH", "MWh", 1),
        ("mA", "mA", 1),
        ("0.1V", "V", 0.1),
        ("0,01 kWh", "kWh", 0.01),
        ("10^-2 A", "A", 0.01),
        ("10Wh", "Wh", 10),
        ("×0.1kW", "kW", 0.1),
        ("千瓦时", "kWh", 1),
        ("℃", "degC", 1),
        ("m³/h", "m3/h", 1),
        ("M3", "m3", 1),
        ("Nm³", "Nm3", 1),
        ("", "1", 1),
        ("[kvar]", "kvar", 1),
        ("%", "%", 1),
        ("吨", "t", 1),
        ("MPa", "MPa", 1),
    ],
)
def test_units_are_read(text: str, symbol: str, factor: float) -> None:
    found = cells.unit(text)
    assert found[0] == symbol
    assert found[1] == pytest.approx(factor)


def test_every_unit_of_the_product_is_read_as_itself() -> None:
    for quantity in QUANTITIES.values():
        for unit in quantity.units:
            assert cells.unit(unit.symbol) == (unit.symbol, 1.0)


@pytest.mark.parametrize("text", ["mwh", "mw", "MA", "mpa", "furlong", "ton"])
def test_milli_is_not_taken_for_mega(text: str) -> None:
    with pytest.raises(CellError):
        cells.unit(text)


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("Active energy import", "kWh", Meaning("active_energy", "counter", "electricity")),
        ("正向有功电能", "kWh", Meaning("active_energy", "counter", "electricity")),
        ("Heat total", "kWh", Meaning("thermal_energy", "counter", "heat")),
        ("Voltage", "V", Meaning("voltage", "gauge", "electricity")),
        ("Water total", "m3", Meaning("volume", "counter", "water")),
        ("Total cement", "kWh", None),
        ("Water pump energy", "kWh", None),
        ("Volume", "m3", None),
        ("Weight", "t", None),
        ("Energy this month, active", "kWh", None),
        ("Power factor", "1", Meaning("power_factor", "gauge", "electricity")),
        ("Something", "1", None),
        ("Operating hours", "h", Meaning("running_time", "counter", "none")),
        ("Time", "h", None),
        ("Cabinet", "degC", Meaning("temperature", "gauge", "none")),
        ("Load", "%", None),
    ],
)
def test_a_quantity_is_told_by_unit_and_name_or_not_at_all(name: str, unit: str, expected: Meaning | None) -> None:
    if expected is not None:
        assert tell(name, unit, "float32", None) == expected
        return
    with pytest.raises(CellError):
        tell(name, unit, "float32", None)


def test_who_imports_may_say_the_medium() -> None:
    assert tell("Energy", "kWh", "float32", "electricity").quantity == "active_energy"
    assert tell("Energy", "kWh", "float32", "heat") == Meaning("thermal_energy", "counter", "heat")
    assert tell("Volume", "m3", "float32", "water").medium == "water"
    with pytest.raises(CellError):
        tell("Volume", "m3", "float32", "coal")


def test_headings_are_found_in_several_languages() -> None:
    rows = [
        ("List of registers",),
        (),
        ("参数名称", "寄存器地址", "数据类型", "单位", "倍率", "功能码", "备注", "颜色"),
    ]
    found = columns.find(rows)
    assert found is not None
    assert found.row == 2
    assert list(found.places) == ["name", "address", "type", "unit", "scale", "table", "description"]
    assert found.unused == ("颜色",)
    both = columns.find([("名称 Name", "Address (hex)", "UNIT")])
    assert both is not None
    assert list(both.places) == ["name", "address", "unit"]
    assert columns.find([("a", "b"), ("name", "unit")]) is None
