from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import birth
from protocols.birth import Birth, Point, Schema
from protocols.errors import PayloadError, ProtocolError, SchemaError
from protocols.quantities import QUANTITIES
from protocols.reading import BatchKey
from tests.protocols.strategies import json_values, keys, mutations, names, storable_text, times

POINT: dict[str, Any] = {
    "device": "kiln_main",
    "tag": "active_energy_import",
    "quantity": "active_energy",
    "unit": "kWh",
    "kind": "counter",
    "medium": "electricity",
    "poll_interval_s": 10,
    "gap_limit_s": 900,
}
FIXED = Schema(
    site="cement",
    points=(
        Point.model_validate(POINT),
        Point.model_validate(
            {
                **POINT,
                "device": "水泥磨",
                "tag": "total",
                "quantity": "mass",
                "unit": "t",
                "medium": "material",
                "value_type": "int",
                "poll_interval_s": 0.5,
                "heartbeat_s": 60,
                "scale": 0.001,
                "offset": -1,
                "modulus": 1_000_000,
                "max_rate_per_h": 400,
                "deadband": 0,
                "accuracy_class": "0.5S",
                "address": "holding 1015 uint32",
                "model": "siemens_bw500",
                "serial": "A-7",
            }
        ),
    ),
)
FIXED_BIRTH = Birth(BatchKey("demo", "cement-gw1", "ab" * 16, 1), 1_655_136_000_000_000, FIXED)


@st.composite
def points(draw: st.DrawFn) -> Point:
    quantity = QUANTITIES[draw(st.sampled_from(sorted(QUANTITIES)))]
    kind = draw(st.sampled_from(quantity.kinds))
    gap = draw(st.floats(1, 1e6))
    positive = st.one_of(st.none(), st.floats(min_value=1e-9, max_value=1e12))
    return Point(
        device=draw(names),
        tag=draw(names),
        quantity=quantity.name,
        unit=draw(st.sampled_from(quantity.units)).symbol,
        kind=kind,
        medium=draw(st.sampled_from(quantity.media)) if quantity.media else "none",
        value_type=draw(st.sampled_from(["float", "int"])),
        poll_interval_s=draw(st.floats(0.001, gap)),
        heartbeat_s=draw(st.one_of(st.none(), st.floats(0.001, gap))),
        gap_limit_s=gap,
        scale=draw(st.floats(-1e6, 1e6).filter(bool)),
        offset=draw(st.floats(-1e6, 1e6)),
        modulus=draw(positive) if kind == "counter" else None,
        max_rate_per_h=draw(positive),
        deadband=draw(st.one_of(st.none(), st.floats(0, 1e6))),
        accuracy_class=draw(st.one_of(st.none(), storable_text)),
        address=draw(storable_text),
        model=draw(st.one_of(st.none(), storable_text)),
        serial=draw(st.one_of(st.none(), storable_text)),
    )


schemas = st.builds(
    Schema,
    site=names,
    points=st.lists(points(), min_size=1, max_size=4, unique_by=lambda p: (p.device, p.tag)).map(tuple),
)


def test_the_id_of_a_schema_never_changes() -> None:
    """Stored data refer to it: a new optional field must not change the id of schemas that do without it."""
    assert FIXED.canonical().startswith(b'{"points":[{"accuracy_class":null,"address":"","deadband":null,"device":')
    assert FIXED.id() == "b464b2d2d9b68949f344650fc2b242b9c091258b7798a7dbda884e5ca4fcaa24"


@given(schemas)
def test_equal_schemas_have_one_id_and_others_another(schema: Schema) -> None:
    again = birth.schema_from_document(orjson.loads(schema.canonical()))
    assert again == schema
    assert again.canonical() == schema.canonical()
    assert again.id() == schema.id()
    assert len(schema.id()) == 64
    other = schema.model_copy(update={"site": "x" if schema.site != "x" else "y"})
    assert other.id() != schema.id()


@given(keys, times, schemas)
def test_a_birth_comes_back_as_it_was(key: BatchKey, at: int, schema: Schema) -> None:
    sent = Birth(key, at, schema)
    assert birth.decode(sent.encode()) == sent


def test_the_order_of_points_is_part_of_the_schema() -> None:
    turned = FIXED.model_copy(update={"points": FIXED.points[::-1]})
    assert turned.id() != FIXED.id()
    assert FIXED.name_of(0) == "cement/kiln_main/active_energy_import"
    assert turned.name_of(0) == "cement/水泥磨/total"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unit": "kW"}, "unit 'kW' does not fit quantity 'active_energy'; allowed: kWh, Wh, MWh, GJ"),
        ({"quantity": "energy"}, "quantity 'energy' is unknown; known: .*active_energy"),
        ({"kind": "gauge"}, "kind 'gauge' does not fit quantity 'active_energy'; allowed: counter"),
        ({"medium": "water"}, "medium 'water' does not fit quantity 'active_energy'; allowed: electricity"),
        ({"medium": "plasma"}, r"medium: .*electricity.*\(found 'plasma'\)"),
        (
            {"heartbeat_s": 901},
            "heartbeat_s 901 is longer than gap_limit_s 900, so silence .* from a gap; allowed: up to 900",
        ),
        ({"poll_interval_s": 901}, "poll_interval_s 901 is longer than gap_limit_s 900"),
        ({"poll_interval_s": 0}, r"poll_interval_s: .*greater than 0 \(found 0\)"),
        ({"gap_limit_s": float("inf")}, "gap_limit_s: .*finite"),
        ({"scale": 0}, "scale 0 would make every value 0"),
        ({"scale": float("nan")}, "scale: .*finite"),
        ({"modulus": -1}, "modulus: .*greater than 0"),
        ({"value_type": "text"}, "value_type 'text' on a counter; allowed: float, int"),
        ({"device": "kiln/main"}, "device: name 'kiln/main' is not allowed; allowed: 1 to 64 letters"),
        ({"tag": ""}, "tag: name '' is not allowed"),
        ({"serial": "a\0"}, "serial: holds a NUL character"),
        ({"address": "\0"}, "address: holds a NUL character"),
        ({"colour": "red"}, r"colour: .*not permitted \(found 'red'\)"),
        (
            {"quantity": "active_power", "unit": "kW", "kind": "gauge", "modulus": 10},
            "modulus 10 on a gauge; allowed: on counters only",
        ),
    ],
)
def test_a_contradictory_point_is_told_its_place_field_and_what_is_allowed(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SchemaError, match=words) as caught:
        birth.schema_from_document({"v": 1, "site": "cement", "points": [POINT, POINT | {"tag": "b"} | changes]})
    assert str(caught.value).startswith("points.1")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (
            {"v": 1, "site": "cement", "points": [POINT, POINT]},
            "device 'kiln_main' has two tags 'active_energy_import'; allowed: one of each name",
        ),
        ({"v": 1, "site": "a b", "points": [POINT]}, "site 'a b' is not allowed"),
        ({"v": 1, "site": "cement", "points": []}, "points: .*at least 1"),
        ({"v": 2, "site": "cement", "points": [POINT]}, r"v: .*1 \(found 2\)"),
        ({"v": 1, "site": "cement", "points": [{"device": "d"}]}, "points.0.tag: Field required .* and 2 more"),
    ],
)
def test_a_contradictory_schema_is_refused(document: dict[str, Any], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        birth.schema_from_document(document)


def test_a_heartbeat_may_be_as_long_as_the_gap_limit() -> None:
    assert Point.model_validate(POINT | {"heartbeat_s": 900}).heartbeat_s == 900


def test_a_schema_under_a_foreign_id_is_refused() -> None:
    document = orjson.loads(FIXED_BIRTH.encode()) | {"id": "0" * 64}
    with pytest.raises(PayloadError, match=f"birth.id is 0+; the schema's own id is {FIXED.id()}"):
        birth.decode(orjson.dumps(document))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"v": 2}, "birth has version 2; allowed: 1"),
        ({"x": 1}, "birth has unknown key 'x'"),
        ({"seq": 0}, r"birth\.seq is 0"),
        ({"at": "now"}, r"birth\.at is 'now'; allowed: int"),
        ({"schema": []}, r"birth\.schema is \[\]; allowed: dict"),
        ({"id": 5}, r"birth\.id is 5; allowed: str"),
        ({"tenant": ""}, "birth: tenant '' is not allowed"),
    ],
)
def test_a_wrong_birth_is_told_where(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PayloadError, match=words):
        birth.decode(orjson.dumps(orjson.loads(FIXED_BIRTH.encode()) | changes))


@given(st.one_of(mutations(FIXED_BIRTH.encode()), json_values.map(orjson.dumps), st.binary(max_size=40)))
def test_a_mutated_birth_is_valid_or_an_error_of_ours(payload: bytes) -> None:
    try:
        found = birth.decode(payload)
    except ProtocolError:
        return
    assert found.schema.id() == orjson.loads(payload)["id"]
