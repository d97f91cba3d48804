"""The bytes of ``json1``: old ones stay decodable, and each wrong one is told where and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from protocols.errors import PayloadError
from protocols.payload.json_v1 import JsonV1
from protocols.reading import Batch, BatchKey, ClockState, Columns, digest

FIXTURES = Path(__file__).parents[1] / "fixtures"
EPOCH = "00112233445566778899aabbccddeeff"
SCHEMA = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

POLLED = Batch(
    key=BatchKey("demo", "cement-gw1", EPOCH, 1),
    schema_id=SCHEMA,
    created_us=1_655_136_060_000_000,
    clock=ClockState(True, "b7c0", 987_654_321),
    base_us=1_655_136_000_000_000,
    columns={"float": Columns([0, 1, 0, 1], [0, 250, 10_000_000, 10_000_250], [1234.56, -0.5, 1234.75, 1e-9], [])},
)
MIXED = Batch(
    key=BatchKey("demo", "水泥", EPOCH, 9_223_372_036_854_775_807),
    schema_id=SCHEMA,
    created_us=-1,
    clock=ClockState(False, "", 0),
    base_us=0,
    columns={
        "float": Columns([2, 3], [-1_000, 0], [None, 0.1], [132, 65]),
        "int": Columns([4, 2_147_483_647], [0, 1], [9_223_372_036_854_775_807, -9_223_372_036_854_775_808], []),
        "bool": Columns([5, 6, 7], [0, 0, 0], [True, False, None], [0, 0, 129]),
        "text": Columns([8, 9], [5, 6], ['停机 "stop"\n', ""], []),
    },
)


@pytest.mark.parametrize(
    ("file", "batch", "sha256"),
    [
        ("json1_v1_polled.json", POLLED, "ea9414249c5f02a6bb4c2606059ab98667a85b6a54a91614b110a55a4c24e801"),
        ("json1_v1_mixed.json", MIXED, "51418d02cac35927c97df47468ed6d7d971919606598629d7274632fc026a7d0"),
    ],
)
def test_bytes_of_version_1_stay_decodable_and_the_same(file: str, batch: Batch, sha256: str) -> None:
    payload = (FIXTURES / file).read_bytes()
    assert digest(payload).hex() == sha256
    assert JsonV1().decode(payload) == batch
    assert JsonV1().encode(batch) == payload


def document(**changes: Any) -> dict[str, Any]:
    """A valid document with some keys replaced, or removed by None."""
    whole: dict[str, Any] = orjson.loads(JsonV1().encode(POLLED)) | changes
    return {key: value for key, value in whole.items() if value is not None}


def group(**changes: Any) -> dict[str, Any]:
    """A valid group with some columns replaced."""
    return {"p": [0, 1], "t": [0, 5], "v": [1.5, None], "q": [0, 130]} | changes


def decode(document: object) -> Batch:
    return JsonV1().decode(orjson.dumps(document))


def test_the_document_is_the_one_that_its_description_shows() -> None:
    found = decode(document(f=group()))
    assert found.columns == {"float": Columns([0, 1], [0, 5], [1.5, None], [0, 130])}


def test_integers_are_accepted_as_floats() -> None:
    assert decode(document(f=group(v=[1, 2], q=[0, 0]))).columns["float"].values == [1, 2]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([], "batch is a JSON list; allowed: an object"),
        (document(v=None), "version None; allowed: 1"),
        (document(v=2), "version 2; allowed: 1"),
        (document(v=True), "version True; allowed: 1"),
        (document(more=1), "unknown key 'more'; allowed: agent, at, b, clock"),
        (document(seq="7"), r"batch\.seq is '7'; allowed: int"),
        (document(seq=True), r"batch\.seq is True; allowed: int"),
        (document(seq=0), r"batch\.seq is 0; allowed: 1 to"),
        (document(at=2**63), r"batch\.at is 9223372036854775808; allowed: -"),
        (document(at=1.5), r"batch\.at is 1\.5; allowed: int"),
        (document(t0=2**62 + 1), r"batch\.t0 is 4611686018427387905; allowed"),
        (document(tenant="a b"), "batch: tenant 'a b' is not allowed"),
        (document(epoch="0" * 33), r"batch\.epoch is '0+'; allowed: 32 lower-case hex digits"),
        (document(schema=None), r"batch\.schema is None; allowed: str"),
        (document(clock=None), r"batch\.clock is None; allowed: dict"),
        (document(clock={"sync": 1, "boot": "", "mono": 0}), r"batch\.clock\.sync is 1; allowed: bool"),
        (document(clock={"sync": True, "boot": "", "mono": 0, "x": 0}), r"batch\.clock has unknown key 'x'"),
        (document(f=None), "batch has no readings"),
        (document(f=[]), r"batch\.f is \[\]; allowed: dict"),
        (document(f=group(x=[1])), r"batch\.f has unknown key 'x'; allowed: p, q, t, v"),
        (document(f=group(p=[0])), r"columns p, t, v, q have 1, 2, 2, 2 entries"),
        (document(f=group(p=[0, "1"])), r"batch\.f\.p holds something other than integers"),
        (document(f=group(t=[0, 0.5])), r"batch\.f\.t holds something other than integers"),
        (document(f=group(p=[0, 2**31])), r"batch\.f\.p holds a number outside 0 to 2147483647"),
        (document(f=group(q=[0, 300])), r"batch\.f\.q holds a number outside 0 to 255"),
        (document(f=group(q=[0, 0])), "entry 1 has value None with quality 0; allowed: no value exactly when"),
        (document(f=group(q=[128, 130])), r"entry 0 has value 1\.5 with quality 128"),
        (document(f=group(v=["1.5", None])), r"batch\.f\.v holds str; allowed: float or null"),
        (document(i=group(v=[1.5, None])), r"batch\.i\.v holds float; allowed: int or null"),
        (document(i=group(v=[2**63, None])), r"batch\.i\.v holds an integer beyond 64 bits signed"),
        (document(b=group(v=[1, None])), r"batch\.b\.v holds int; allowed: bool or null"),
        (document(s=group(v=["a\0", None])), r"batch\.s\.v holds a NUL character"),
    ],
)
def test_a_wrong_document_is_told_where_it_is_wrong_and_what_is_allowed(wrong: object, words: str) -> None:
    with pytest.raises(PayloadError, match=words):
        decode(wrong)


@pytest.mark.parametrize("payload", [b"", b"\xff", b"{", b'{"v":NaN}', b'{"v":1,}', b"[" * 5000, b'"\\ud800"'])
def test_what_is_not_json_is_a_payload_error(payload: bytes) -> None:
    with pytest.raises(PayloadError, match="batch is not JSON"):
        JsonV1().decode(payload)


def test_a_sender_is_found_also_if_the_rest_is_wrong() -> None:
    assert JsonV1().identity(orjson.dumps(document(f=[1], more=2))) == (EPOCH, 1)
    assert JsonV1().identity(orjson.dumps(document(epoch="x"))) is None
    assert JsonV1().identity(b"{") is None
