"""Register tables: every model is served as its file says, any range of it, at the moment of reading."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sims.fleet import Fleet
from device_sims.kinds import registry
from device_sims.kinds.base import Value, Wiring, field_value
from device_sims.modbus.device import ModbusDevice
from device_sims.modbus.registers import Cell, Table, raw_value
from device_sims.plant.plant import Moment
from device_sims.signals import Signals
from protocols.meters import catalogue
from protocols.meters.schema import Field, Limits
from protocols.modbus import words
from protocols.modbus.words import RegisterType
from tests.support import fleets
from tests.support.fleets import HOUR

PLANT = fleets.plant(fleets.small())
MOMENT = PLANT.at(PLANT.start_us + 10 * HOUR)
FUNCTIONS = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
KIND_OF = {"electricity": "electricity", "water": "water", "compressed_air": "compressed_air", "material": "belt_scale"}
SERIES = {"import": "incomer", "export": "generator", "volume": "water", "normal_volume": "air", "mass": "clinker"}


def wiring(kind: str, **options: Any) -> Wiring:
    found = registry.KINDS[kind]
    columns = {role: PLANT.layout.series[SERIES[role]] for role in found.roles}
    return Wiring("device", columns, found.options.model_validate(options))


def device(cells: list[Cell], limits: Limits = Limits(), **options: Any) -> ModbusDevice:  # noqa: B008
    settings = {"refuse_holes": False, "fault": None, "signals": Signals(), **options}
    return ModbusDevice("device", cells, limits, **settings)


def read(served: ModbusDevice, function: int, address: int, count: int) -> bytes:
    answer = served.answer(struct.pack(">BHH", function, address, count), lambda: MOMENT)
    assert answer is not None
    return answer


def cell(value: float | bool, **description: Any) -> Cell:
    fields = {"name": "x", "quantity": "ratio", "unit": "1", "kind": "gauge", "table": "holding", "address": 0}
    field = Field.model_validate({**fields, "type": "uint16", **description})
    orders = field.word_order or "big", field.byte_order or "big"
    return Cell(field, orders, raw_value(field, lambda _moment: value, field.modulus))


def still(value: float) -> Value:
    return lambda _moment: value


@pytest.mark.parametrize("name", catalogue.names())
def test_every_model_of_the_catalogue_is_served_as_its_file_says(name: str) -> None:
    model = catalogue.model(name)
    values: dict[str, Value]
    if model.medium in KIND_OF:
        kind = registry.KINDS[KIND_OF[model.medium]]
        wired = wiring(kind.name)
        values = {f.name: field_value(kind, wired, f, 5000.0 if f.kind == "counter" else 0.0) for f in model.fields}
    else:  # a medium that no kind simulates: values that stand still
        values = {f.name: still(n + (5000.0 if f.kind == "counter" else 6.5)) for n, f in enumerate(model.fields)}
    cells = [Cell(f, model.orders(f), raw_value(f, values[f.name], f.modulus)) for f in model.fields]
    served = device(cells, model.limits)
    for field in model.fields:
        answer = read(served, FUNCTIONS[field.table], field.address, field.count)
        assert answer[:2] == bytes((FUNCTIONS[field.table], 2 * field.count))
        (raw,) = words.compile_decoder([(0, field.type, *model.orders(field), field.part)], field.count)(answer[2:])
        assert isinstance(raw, int | float)
        value = raw * field.scale + field.offset
        step = field.scale if not field.type.startswith("float") else 1e-6 * abs(value)
        assert math.isfinite(value)
        assert abs(value - values[field.name](MOMENT)) <= step * (1 + 1e-9), field.name
        if field.kind == "counter":
            assert value >= 5000 - step


@given(
    types=st.lists(st.sampled_from((*words.NUMBER_TYPES, *words.DECIMAL_TYPES)), min_size=1, max_size=8),
    holes=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    orders=st.lists(st.tuples(*[st.sampled_from(["big", "little"])] * 2), min_size=8, max_size=8),
    value=st.integers(0, 9999),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_any_range_is_a_cut_of_the_whole_table(
    types: list[RegisterType], holes: list[int], orders: list[tuple[Any, Any]], value: int, data: st.DataObject
) -> None:
    cells, image, here = [], b"", 0
    for type_, hole, (word_order, byte_order) in zip(types, holes, orders, strict=False):
        here += hole
        places = {"address": here, "type": type_, "word_order": word_order, "byte_order": byte_order}
        cells.append(cell(value, **places))
        image += bytes(2 * hole) + words.encode(type_, value, word_order, byte_order)
        here += cells[-1].field.count
    first = cells[0].field.address
    begin = data.draw(st.integers(first, here - 1))
    end = data.draw(st.integers(begin + 1, here))
    found = Table("holding", cells, refuse_holes=False, exact=False).reader(begin, end - begin)
    touched = any(begin < c.field.address + c.field.count and c.field.address < end for c in cells)
    assert (found is not None) == touched
    if found is not None:
        assert found(MOMENT) == image[2 * begin : 2 * end]


def test_bits_of_one_register_stand_together() -> None:
    cells = [cell(value, type="bit", bit=bit) for bit, value in ((0, True), (3, False), (15, True))]
    assert read(device(cells), 3, 0, 1) == bytes.fromhex("0302 8001")


def test_text_reads_as_empty() -> None:
    cells = [cell(0.0, type="string", length=3, quantity="text", kind="state"), cell(7, address=3)]
    assert read(device(cells), 3, 0, 4) == bytes.fromhex("0308 0000 0000 0000 0007")


@pytest.mark.parametrize("type_", ["bcd16", "mod10k32"])
def test_a_number_that_has_no_digits_is_a_failure_of_the_device(type_: str) -> None:
    assert read(device([cell(-1, type=type_)]), 3, 0, 2 if type_ == "mod10k32" else 1)[:1] == b"\x83"


@given(values=st.lists(st.booleans(), min_size=1, max_size=30), data=st.data())
@settings(deadline=None)
def test_any_range_of_bits_is_packed_first_bit_lowest(values: list[bool], data: st.DataObject) -> None:
    cells = [cell(value, table="coil", type="bool", address=n) for n, value in enumerate(values)]
    begin = data.draw(st.integers(0, len(values) - 1))
    end = data.draw(st.integers(begin + 1, len(values)))
    answer = read(device(cells), 1, begin, end - begin)
    assert answer[2:] == words.encode_bits(values[begin:end])


@pytest.mark.parametrize(
    ("function", "address", "count", "code"),
    [
        (3, 9, 1, 2),  # before the first
        (3, 13, 1, 2),  # after the last
        (3, 12, 2, 2),  # across the end
        (3, 65535, 2, 2),
        (4, 10, 1, 2),  # no such table
        (3, 10, 0, 3),
        (3, 10, 126, 3),
        (1, 0, 2001, 3),
        (6, 10, 1, 1),
        (16, 10, 1, 1),
        (43, 10, 1, 1),
    ],
)
def test_what_is_not_there_is_refused_with_the_right_exception(
    function: int, address: int, count: int, code: int
) -> None:
    served = device([cell(1, address=10), cell(2, address=12)])
    assert read(served, function, address, count) == bytes((function | 0x80, code))


def test_holes_read_as_zero_or_are_refused() -> None:
    cells = [cell(1, address=10), cell(2, address=12)]
    assert read(device(cells), 3, 10, 3) == b"\x03\x06\x00\x01\x00\x00\x00\x02"
    assert read(device(cells, refuse_holes=True), 3, 10, 3) == b"\x83\x02"
    assert read(device(cells, refuse_holes=True), 3, 12, 1) == b"\x03\x02\x00\x02"


def test_a_device_keeps_its_own_limits() -> None:
    cells = [cell(n, address=n) for n in range(20)]
    assert read(device(cells, Limits(max_registers=10)), 3, 0, 11) == b"\x83\x03"
    assert len(read(device(cells, Limits(max_registers=10)), 3, 0, 10)) == 22
    picky = device([cell(1, address=0, type="uint32"), cell(2, address=2)], Limits(one_field_per_request=True))
    assert read(picky, 3, 0, 3) == b"\x83\x02"
    assert read(picky, 3, 0, 1) == b"\x83\x02"
    assert read(picky, 3, 0, 2) == b"\x03\x04\x00\x00\x00\x01"


def test_a_request_of_the_wrong_length_is_refused() -> None:
    served = device([cell(1)])
    for tail in (b"", b"\x00", b"\x00\x00\x00\x01\x00"):
        assert served.answer(b"\x03" + tail, lambda: MOMENT) == b"\x83\x03"


def test_a_value_that_does_not_fit_is_a_device_failure_and_is_counted() -> None:
    signals = Signals()
    served = device([cell(70_000), cell(1, address=1)], signals=signals)
    assert read(served, 3, 0, 2) == b"\x83\x04"
    assert read(served, 3, 1, 1) == b"\x03\x02\x00\x01"
    assert signals.unencodable == 1


@given(
    total=st.floats(0, 1e7),
    modulus=st.sampled_from([100.0, 999.0, 10_000.0, 1e6]),
    scale=st.sampled_from([1, 0.1, 0.01]),
)
def test_a_counter_with_modulus_wraps_and_never_shows_the_modulus(total: float, modulus: float, scale: float) -> None:
    for type_ in ("uint64", "float64"):
        used_scale = scale if type_ == "uint64" else 1.0
        counter = cell(total, kind="counter", type=type_, scale=used_scale, modulus=modulus)
        shown = counter.raw(MOMENT) * used_scale
        assert 0 <= shown < modulus
        assert math.cos(2 * math.pi * (shown - total) / modulus) == pytest.approx(
            1, abs=1 - math.cos(2 * math.pi * 1.01 * used_scale / modulus) + 1e-6
        )


def test_integer_counters_show_full_counts_only() -> None:
    assert cell(12.39, kind="counter", scale=0.1).raw(MOMENT) == 123
    assert cell(12.39, kind="gauge", scale=0.1).raw(MOMENT) == 124


def test_a_client_that_tries_all_ranges_does_not_fill_the_memory() -> None:
    served = device([cell(n, address=n) for n in range(100)])
    for address in range(0, 70_000 - 5000, 13):
        for count in (1, 7):
            read(served, 3, address, count)
    assert len(served._ranges) <= 1024


def test_a_belt_scale_starts_again_from_zero() -> None:
    fleet = Fleet(fleets.small())
    scale = fleet.gateways[0].devices[7]
    masses = []
    for hour in range(30):
        moment = fleet.plant.at(fleet.plant.start_us + hour * HOUR)
        answer = scale.answer(struct.pack(">BHH", 3, 0, 4), lambda moment=moment: moment)  # type: ignore[misc]
        assert answer is not None
        masses.append(struct.unpack(">d", answer[2:])[0])
    assert masses[0] == 99_990.0
    assert all(0 <= mass < 100_000 for mass in masses)
    falls = [n for n in range(1, 30) if masses[n] < masses[n - 1]]
    assert len(falls) == 1
    made = fleet.plant.at(fleet.plant.start_us + 29 * HOUR).total(fleet.plant.layout.series["clinker"])
    assert masses[-1] - masses[0] + 100_000 == pytest.approx(made)


def test_values_are_those_of_the_moment_of_reading() -> None:
    fleet = Fleet(fleets.small())
    incomer = fleet.gateways[0].devices[1]
    column = fleet.plant.layout.series["incomer"]
    for at in range(fleet.plant.start_us, fleet.plant.start_us + 30 * HOUR, 3 * HOUR + 777):
        moment: Moment = fleet.plant.at(at)
        answer = incomer.answer(struct.pack(">BHH", 4, 801, 4), lambda moment=moment: moment)  # type: ignore[misc]
        assert answer is not None
        (shown_wh,) = struct.unpack(">d", answer[2:])
        assert shown_wh == pytest.approx(4_812_345_670.0 + 1000 * moment.total(column), rel=1e-12)
