"""One suite over every codec: what each of them promises, whatever its bytes look like."""

from __future__ import annotations

import itertools
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import PayloadError, UnknownCodecError
from protocols.payload import registry
from protocols.payload.base import Codec
from protocols.payload.json_v1 import MAX_BASE_US, MAX_OFFSET_US
from protocols.quality import FIRST_BAD
from protocols.reading import (
    INT_MAX,
    INT_MIN,
    MAX_POINT,
    Batch,
    BatchKey,
    ClockState,
    Columns,
    ValueType,
    digest,
)
from protocols.topics import check_name
from tests.protocols.strategies import batches, json_values, mutations

every_codec = pytest.mark.parametrize("codec", registry.CODECS.values(), ids=lambda codec: codec.name)

SMALL = Batch(
    key=BatchKey("acme", "gw1", "0123456789abcdef" * 2, 7),
    schema_id="89abcdef01234567" * 4,
    created_us=1_655_136_000_000_000,
    clock=ClockState(True, "b1", 12_345),
    base_us=1_655_135_999_000_000,
    columns={
        "float": Columns([0, 1, 2], [0, 1500, -1], [12.5, None, 1.0], [0, 130, 65]),
        "int": Columns([3, 3], [0, 10], [INT_MAX, INT_MIN], []),
        "bool": Columns([4], [0], [True], []),
        "text": Columns([5], [0], ["läuft"], [64]),
    },
)


def with_columns(value_type: ValueType, group: Columns) -> Batch:
    return replace(SMALL, columns={value_type: group})


@every_codec
@given(batch=batches())
def test_a_batch_comes_back_as_it_was(codec: Codec, batch: Batch) -> None:
    assert codec.decode(codec.encode(batch)) == batch


@every_codec
@given(batch=batches())
def test_equal_batches_have_equal_bytes_and_digest(codec: Codec, batch: Batch) -> None:
    as_tuples = {
        kind: Columns(tuple(g.points), tuple(g.offsets_us), tuple(g.values), tuple(g.qualities))
        for kind, g in batch.columns.items()
    }
    again = codec.encode(replace(batch, columns=as_tuples))
    assert again == codec.encode(batch) == codec.encode(codec.decode(again))
    assert len(digest(again)) == 32


@every_codec
@given(batch=batches())
def test_another_key_gives_other_bytes(codec: Codec, batch: Batch) -> None:
    other = replace(batch, key=replace(batch.key, seq=batch.key.seq % INT_MAX + 1))
    assert codec.encode(other) != codec.encode(batch)


@every_codec
@given(batch=batches())
def test_all_good_needs_no_column_of_qualities(codec: Codec, batch: Batch) -> None:
    plain: dict[ValueType, Columns] = {
        kind: replace(g, values=[0 if v is None else v for v in g.values], qualities=[])
        for kind, g in batch.columns.items()
        if kind in ("float", "int")
    }
    if plain:
        zeros: dict[ValueType, Columns] = {kind: replace(g, qualities=[0] * len(g)) for kind, g in plain.items()}
        assert codec.encode(replace(batch, columns=plain)) == codec.encode(replace(batch, columns=zeros))


@every_codec
@given(batch=batches())
def test_the_sender_is_found(codec: Codec, batch: Batch) -> None:
    assert codec.identity(codec.encode(batch)) == (batch.key.epoch, batch.key.seq)


def check_rules(batch: Batch) -> None:
    """The rules of `protocols.reading` that ingest relies on."""
    check_name("tenant", batch.key.tenant)
    check_name("agent", batch.key.agent)
    assert len(batch.key.epoch) == 32
    assert len(batch.schema_id) == 64
    assert 1 <= batch.key.seq <= INT_MAX
    assert len(batch) > 0
    assert -MAX_BASE_US <= batch.base_us <= MAX_BASE_US
    types: dict[ValueType, set[type]] = {"float": {float, int}, "int": {int}, "bool": {bool}, "text": {str}}
    for kind, group in batch.columns.items():
        size = len(group.points)
        assert size == len(group.offsets_us) == len(group.values) > 0
        assert len(group.qualities) in (0, size)
        for position in range(size):
            code = group.qualities[position] if group.qualities else 0
            value = group.values[position]
            assert 0 <= group.points[position] <= MAX_POINT
            assert abs(group.offsets_us[position]) <= MAX_OFFSET_US
            assert 0 <= code <= 255
            assert (value is None) == (code >= FIRST_BAD)
            assert value is None or type(value) in types[kind]
            assert kind != "int" or value is None or INT_MIN <= int(value) <= INT_MAX
            assert not isinstance(value, str) or "\0" not in value


@every_codec
@given(data=st.data())
def test_a_mutated_payload_is_a_valid_batch_or_a_payload_error(codec: Codec, data: st.DataObject) -> None:
    payload = data.draw(mutations(codec.encode(data.draw(st.one_of(st.just(SMALL), batches())))))
    codec.identity(payload)
    try:
        batch = codec.decode(payload)
    except PayloadError:
        return
    check_rules(batch)


@every_codec
@given(payload=st.binary(max_size=60))
def test_arbitrary_bytes_are_a_payload_error(codec: Codec, payload: bytes) -> None:
    assert codec.identity(payload) is None
    with pytest.raises(PayloadError):
        codec.decode(payload)


@every_codec
@pytest.mark.parametrize(
    "group",
    [
        Columns([], [], [], []),
        Columns([0, 1], [0], [1.0, 2.0], []),
        Columns([0], [0], [1.0, 2.0], []),
        Columns([0, 1], [0, 1], [1.0, 2.0], [64]),
        Columns([-1], [0], [1.0], []),
        Columns([MAX_POINT + 1], [0], [1.0], []),
        Columns([0], [MAX_OFFSET_US + 1], [1.0], []),
        Columns([0], [0], [1.0], [256]),
        Columns([0], [0], [1.0], [-1]),
        Columns([0], [0], [1.0], [FIRST_BAD]),
        Columns([0], [0], [None], [FIRST_BAD - 1]),
        Columns([0], [0], [None], []),
        Columns([0], [0], [float("nan")], []),
        Columns([0], [0], [float("inf")], []),
        Columns([0], [0], ["1.0"], []),
        Columns([0], [0], [True], []),
    ],
    ids=str,
)
def test_readings_that_break_a_rule_are_refused_when_decoded(codec: Codec, group: Columns) -> None:
    with pytest.raises(PayloadError, match="batch"):
        codec.decode(codec.encode(with_columns("float", group)))


@every_codec
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", 1.0),
        ("int", True),
        ("int", INT_MAX + 1),
        ("bool", 1),
        ("bool", "true"),
        ("text", 1.5),
        ("text", "a\0b"),
    ],
)
def test_a_value_of_another_type_is_refused_when_decoded(codec: Codec, kind: ValueType, value: float | str) -> None:
    with pytest.raises(PayloadError, match=r"batch\."):
        codec.decode(codec.encode(with_columns(kind, Columns([0], [0], [value], []))))


@every_codec
@pytest.mark.parametrize(
    "batch",
    [
        replace(SMALL, columns={}),
        replace(SMALL, key=replace(SMALL.key, seq=0)),
        replace(SMALL, key=replace(SMALL.key, tenant="a/b")),
        replace(SMALL, key=replace(SMALL.key, agent="")),
        replace(SMALL, key=replace(SMALL.key, epoch="0123456789ABCDEF" * 2)),
        replace(SMALL, key=replace(SMALL.key, epoch="0" * 31)),
        replace(SMALL, schema_id="0" * 63),
        replace(SMALL, base_us=MAX_BASE_US + 1),
        replace(SMALL, clock=replace(SMALL.clock, boot_id="\0")),
    ],
    ids=["empty", "seq", "tenant", "agent", "upper", "short", "schema", "base", "boot"],
)
def test_a_batch_that_breaks_a_rule_is_refused_when_decoded(codec: Codec, batch: Batch) -> None:
    with pytest.raises(PayloadError, match="batch"):
        codec.decode(codec.encode(batch))


@pytest.mark.parametrize("groups_first", [False, True])
@pytest.mark.parametrize(
    ("column", "value"),
    [*itertools.product("ptq", (True, False, 1.0, "1", None, ())), ("v", True), ("v", "1")],
)
def test_one_wrong_type_among_numbers_is_refused_wherever_it_stands(
    column: str, value: object, groups_first: bool
) -> None:
    codec = registry.codec("json1")
    group = Columns([0, 1], [0, 1], [1.0, 2.0], [0, 64])
    document = orjson.loads(codec.encode(with_columns("float", group)))
    document["f"][column][1] = value
    if groups_first:
        document = {"f": document.pop("f")} | document
    with pytest.raises(PayloadError, match=rf"batch\.f\.{column} holds"):
        codec.decode(orjson.dumps(document))


@given(value=json_values)
def test_arbitrary_json_is_a_payload_error_for_the_json_codec(value: object) -> None:
    codec = registry.codec("json1")
    with pytest.raises(PayloadError):
        codec.decode(orjson.dumps(value))


def test_a_codec_is_found_by_the_name_in_its_topic() -> None:
    for name, codec in registry.CODECS.items():
        assert registry.codec(name) is codec
        assert codec.name == name
    assert registry.DEFAULT_CODEC in registry.CODECS


def test_an_unknown_codec_is_told_those_that_exist() -> None:
    with pytest.raises(UnknownCodecError, match=r"codec 'json9' is unknown; known: .*json1"):
        registry.codec("json9")
