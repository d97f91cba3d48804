"""Conformance of every meter model that ships, and what a wrong file is told."""

from __future__ import annotations

import re
import struct
from importlib import resources
from itertools import combinations, product

import pytest

from protocols import quantities, topics
from protocols.errors import CatalogueError
from protocols.meters import catalogue
from protocols.meters.schema import Field, MeterModel
from protocols.modbus.requests import Cost, FieldAddress, plan
from protocols.modbus.words import compile_decoder

NAMES = catalogue.names()
CONSUMPTION = {
    "electricity": "active_energy_import",
    "water": "volume",
    "compressed_air": "normal_volume",
    "natural_gas": "normal_volume",
    "heat": "thermal_energy",
}
CHECKED = re.compile(r"github\.com/[\w-]+/[\w-]+\s\S+\s@ [0-9a-f]{40}|pages? \d+|appendix \w|\b\d+\.\d+\b")
"""A file of a public repository at its commit, or a place in a document."""


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> MeterModel:
    return catalogue.model(request.param)


def text_of(name: str) -> str:
    return (resources.files("protocols.meters") / "models" / f"{name}.toml").read_text(encoding="utf-8")


def test_there_are_meters_of_many_makers_for_every_medium_of_a_plant() -> None:
    models = [catalogue.model(name) for name in NAMES]
    assert len([m for m in models if m.source_status == "seen"]) >= 12
    assert len({m.maker for m in models if m.medium == "electricity"}) >= 4
    media = {"electricity", "water", "natural_gas", "heat", "steam", "compressed_air", "material"}
    assert media <= {m.medium for m in models}


def test_there_are_single_and_three_phase_meters() -> None:
    electric = [m for m in map(catalogue.model, NAMES) if m.medium == "electricity"]
    phases = [{f.name for f in m.fields if re.fullmatch(r"voltage_l[123]", f.name)} for m in electric]
    assert {len(found) for found in phases} == {1, 3}


def test_gas_is_measured_with_its_pressure_and_temperature() -> None:
    quantities_of = [{f.quantity for f in m.fields} for m in map(catalogue.model, NAMES) if m.medium == "natural_gas"]
    assert any({"normal_volume", "volume", "pressure", "temperature"} <= found for found in quantities_of)


def test_a_model_is_named_like_its_file_and_names_its_source(model: MeterModel) -> None:
    assert model.name in NAMES
    assert model.name.startswith(model.maker.split()[0].lower())
    assert model.source_status == "seen"
    assert CHECKED.search(model.source), model.source


def test_the_quantities_and_units_of_a_model_fit(model: MeterModel) -> None:
    for field in model.fields:
        topics.check_name("tag", field.name)
        quantities.check(field.quantity, field.unit, field.kind, model.medium)


def test_a_model_counts_what_is_accounted(model: MeterModel) -> None:
    field = model.field(CONSUMPTION.get(model.medium, "mass"))
    assert field.kind == "counter"
    assert quantities.unit(field.quantity, field.unit).factor * field.scale <= 1
    if model.medium == "electricity":
        assert {f.quantity for f in model.fields} >= {
            "active_energy",
            "active_power",
            "voltage",
            "current",
            "frequency",
        }


def test_no_two_fields_of_a_model_overlap(model: MeterModel) -> None:
    for one, other in combinations(model.fields, 2):
        assert one.name != other.name
        mine = set(product([one.table], range(one.address, one.address + one.count)))
        assert mine.isdisjoint(product([other.table], range(other.address, other.address + other.count)))


def test_every_model_can_be_planned_and_decoded_within_its_limits(model: MeterModel) -> None:
    addresses = [FieldAddress(i, f.table, f.address, f.count) for i, f in enumerate(model.fields)]
    for request in plan(addresses, 1, model.limits, Cost(0.05, 960)):
        assert request.count <= model.limits.most(request.table)
        layout = [
            (f.address - request.address, f.type, *model.orders(f), f.part)
            for f in (model.fields[i] for i in request.fields)
        ]
        values = compile_decoder(layout, request.count)(bytes(2 * request.count))
        assert list(values) == [0] * len(request.fields)


@pytest.mark.parametrize(
    ("name", "field", "raw", "value", "value_type"),
    [
        ("eastron_sdm630", "active_energy_import", 1234.5, 1234.5, "float"),
        ("abb_b23", "active_energy_import", 123_456, 1234.56, "float"),
        ("schneider_iem3000", "active_energy_import", 1_234_567, 1_234_567, "int"),
        ("siemens_pac2200", "active_energy_import", 1_234_567.8, 1_234_567.8, "float"),
        ("carlogavazzi_em340", "current_l1", 12_345, 12.345, "float"),
        ("lovato_dmg610", "current_l1", 12_345, 1.2345, "float"),
        ("siemens_mag6000", "volume_flow", 0.01, 36.0, "float"),
        ("suto_s418", "normal_volume", 4_321, 4_321, "int"),
        ("siemens_bw500", "mass", 7_345, 7.345, "float"),
        ("eastron_sdm230", "active_energy_import", 1234.5, 1234.5, "float"),
        ("inepro_pro380", "active_power", 1.5, 1.5, "float"),
        ("janitza_b23", "active_energy_import", 1_234_567.0, 1_234_567.0, "float"),
        ("flonidan_uniflo1200", "normal_volume", 12_345_678, 12_345_678, "int"),
        ("2flow_mag11", "thermal_energy", 1_234_567, 1234.567, "float"),
        ("spirax_tva", "pressure", 725, 7.25, "float"),
        ("suto_s430", "normal_volume", 4_321, 4_321, "int"),
        ("abb_aquamaster3", "volume", 4_321, 4_321, "int"),
    ],
)
def test_a_register_means_what_the_maker_says(name: str, field: str, raw: float, value: float, value_type: str) -> None:
    found = catalogue.model(name).field(field)
    assert raw * found.scale + found.offset == pytest.approx(value)
    assert found.value_type == value_type


def registers(model: MeterModel, field: str, data: bytes) -> object:
    found = model.field(field)
    (value,) = compile_decoder([(0, found.type, *model.orders(found), found.part)], found.count)(data)
    return value


def test_the_uniflo_sends_the_lowest_byte_first() -> None:
    """As its parsers put a value together: byte 0, byte 1 << 8, byte 2 << 16, byte 3 << 24."""
    model = catalogue.model("flonidan_uniflo1200")
    assert registers(model, "normal_volume", struct.pack("<I", 12_345_678)) == 12_345_678
    assert registers(model, "pressure", struct.pack("<f", 4.25)) == 4.25


def test_a_total_of_the_tva_is_high_times_65536_plus_low() -> None:
    """As its instructions say of total and energy, the low word at the lower address."""
    model = catalogue.model("spirax_tva")
    for field in ("mass", "thermal_energy"):
        assert registers(model, field, struct.pack(">HH", 1234, 2)) == 2 * 65_536 + 1234


def test_a_model_is_read_once() -> None:
    assert catalogue.model(NAMES[0]) is catalogue.model(NAMES[0])


def test_an_unknown_model_is_told_those_that_exist() -> None:
    with pytest.raises(CatalogueError, match=r"'eastron_sdm63' is unknown; known: .*eastron_sdm630"):
        catalogue.model("eastron_sdm63")


def test_a_name_does_not_lead_out_of_the_catalogue() -> None:
    with pytest.raises(CatalogueError, match="unknown"):
        catalogue.model("../models/eastron_sdm630")


def test_a_file_with_another_models_name_is_refused() -> None:
    with pytest.raises(CatalogueError, match=r"abb_b99\.toml: name 'abb_b23' is not the file's"):
        catalogue.load("abb_b99", text_of("abb_b23"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("address = 72", "address = 65535", "field 'active_energy_import': address 65535 with 2 registers"),
        ("address = 72", "address = 70000", r"field 'active_energy_import'\.address: .*65535 \(found 70000\)"),
        ("address = 72", "address = 71", "fields 'frequency' and 'active_energy_import' overlap at input 71"),
        ('name = "frequency"', 'name = "active_power"', "two fields 'active_power'; allowed: one of each name"),
        ('name = "frequency"', 'name = "f/1"', r"field 'f/1'\.name: name 'f/1' is not allowed"),
        ('unit = "Hz"', 'unit = "V"', "field 'frequency': unit 'V' does not fit quantity 'frequency'; allowed: Hz"),
        ('"frequency"\nunit', '"frequenz"\nunit', "quantity 'frequenz' is unknown; known: .*frequency"),
        ('kind = "counter"', 'kind = "state"', "kind 'state' does not fit quantity 'active_energy'; allowed: counter"),
        ('medium = "electricity"', 'medium = "water"', "medium 'water' does not fit quantity 'voltage'"),
        ('medium = "electricity"', 'medium = "electric"', r"medium: .*\(found 'electric'\)"),
        ('type = "float32"', 'type = "float16"', r"\.type: .*\(found 'float16'\)"),
        ('type = "float32"', 'type = "bool"', "type 'bool' in table 'input'; allowed: all but bool"),
        ('table = "input"', 'table = "coil"', "type 'float32' in table 'coil'; allowed: bool"),
        ('type = "float32"', 'type = "float32"\nscale = 0', "scale 0 would make every value 0"),
        ('type = "float32"', 'type = "float32"\nscale = nan', "finite number"),
        ('type = "float32"', 'type = "float32"\nmodulus = 10', "modulus 10 on a gauge; allowed: on counters only"),
        ('type = "float32"', 'type = "float32"\nno_value = 0', "no_value 0 on type 'float32'; allowed: on integers"),
        ('type = "float32"', 'type = "float32"\nregister = 7', "register: unknown key"),
        ("max_registers = 80", "max_registers = 126", r"limits\.max_registers: .*125 \(found 126\)"),
        ("max_registers = 80", "max_registers = 1", "takes 2 registers; allowed: max_registers 1"),
        ('source_status = "seen"', 'source_status = "guessed"', r"source_status: .*\(found 'guessed'\)"),
        ('maker = "Eastron"\n', "", "maker: Field required"),
        ("[limits]", "[limits", "not TOML"),
    ],
)
def test_a_wrong_file_is_told_file_field_value_and_what_is_allowed(old: str, new: str, words: str) -> None:
    text = text_of("eastron_sdm630")
    assert old in text
    with pytest.raises(CatalogueError, match=words) as caught:
        catalogue.load("eastron_sdm630", text.replace(old, new, 1))
    assert str(caught.value).startswith("eastron_sdm630.toml: ")


def test_two_fields_may_share_one_place_if_they_read_it_alike() -> None:
    text = text_of("eastron_sdm630")
    twice = (
        '\n[[field]]\nname = "f2"\nquantity = "frequency"\nunit = "Hz"\nkind = "gauge"\ntable = "input"\naddress = 70\n'
    )
    assert catalogue.load("eastron_sdm630", f'{text}{twice}type = "float32"\n').field("f2").address == 70
    with pytest.raises(CatalogueError, match="overlap at input 70"):
        catalogue.load("eastron_sdm630", f'{text}{twice}type = "uint32"\n')
    with pytest.raises(CatalogueError, match="overlap at input 70"):
        catalogue.load("eastron_sdm630", f'{text}{twice}type = "float32"\nword_order = "little"\n')


def test_a_bit_has_no_scale_and_is_a_bool() -> None:
    def bit(**more: float) -> Field:
        return Field.model_validate(
            {
                "name": "running",
                "quantity": "running",
                "unit": "1",
                "kind": "state",
                "table": "discrete",
                "address": 3,
                "type": "bool",
                **more,
            }
        )

    assert (bit().value_type, bit().count) == ("bool", 1)
    with pytest.raises(ValueError, match=r"scale 2\.0, offset 0\.0 on a bit; allowed: 1 and 0"):
        bit(scale=2)
    with pytest.raises(ValueError, match="no_value 1 on type 'bool'"):
        bit(no_value=1)


@pytest.mark.parametrize(
    ("type_", "scale", "offset", "value_type"),
    [
        ("uint32", 1, 0, "int"),
        ("int64", 1, 0, "int"),
        ("uint16", 1, 0, "int"),
        ("uint32", 0.1, 0, "float"),
        ("uint32", 1, -50, "float"),
        ("float32", 1, 0, "float"),
        ("float64", 2, 0, "float"),
        ("bcd32", 1, 0, "int"),
        ("bcd32", 0.01, 0, "float"),
        ("mod10k64", 1, 0, "int"),
    ],
)
def test_only_integers_as_they_are_stay_integers(type_: str, scale: float, offset: float, value_type: str) -> None:
    document = {"name": "t", "quantity": "temperature", "unit": "degC", "kind": "gauge", "table": "input"}
    field = Field.model_validate(document | {"address": 0, "type": type_, "scale": scale, "offset": offset})
    assert field.value_type == value_type


@pytest.mark.parametrize(
    ("type_", "extra", "value_type", "count"),
    [
        ("bit", {"bit": 3}, "bool", 1),
        ("string", {"length": 8, "quantity": "text"}, "text", 8),
        ("hex", {"length": 2, "quantity": "text"}, "text", 2),
    ],
)
def test_bits_and_texts_have_their_part_and_their_value_type(
    type_: str, extra: dict[str, object], value_type: str, count: int
) -> None:
    document = {"name": "t", "quantity": "state", "unit": "1", "kind": "state", "table": "holding", "address": 0}
    field = Field.model_validate(document | {"type": type_} | extra)
    assert (field.value_type, field.count, field.part) == (value_type, count, extra.get("bit") or extra["length"])
    if value_type == "text":
        with pytest.raises(ValueError, match="on quantity 'state'; allowed: on quantity text only"):
            Field.model_validate(document | {"type": type_} | extra | {"quantity": "state"})


def test_a_marker_that_the_register_cannot_hold_is_refused() -> None:
    text = text_of("abb_b23")
    assert "no_value = 65535" in text
    with pytest.raises(CatalogueError, match="field 'frequency': no_value: value 65536 does not fit uint16"):
        catalogue.load("abb_b23", text.replace("no_value = 65535", "no_value = 65536"))


def test_a_field_may_differ_from_the_models_word_order() -> None:
    text = text_of("carlogavazzi_em340")
    changed = catalogue.load("carlogavazzi_em340", text.replace('"int32"', '"int32"\nword_order = "big"', 1))
    assert changed.orders(changed.field("voltage_l1")) == ("big", "big")
    assert changed.orders(changed.field("voltage_l2")) == ("little", "big")


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(KeyError, match="energy"):
        catalogue.model("abb_b23").field("energy")
