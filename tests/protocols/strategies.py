"""Random messages of the wire contract, for laws that hold for all of them."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

from protocols.payload.json_v1 import MAX_BASE_US, MAX_OFFSET_US
from protocols.quality import FIRST_BAD
from protocols.reading import (
    INT_MAX,
    INT_MIN,
    MAX_POINT,
    VALUE_TYPES,
    Batch,
    BatchKey,
    ClockState,
    Columns,
    Value,
    ValueType,
)

T = TypeVar("T")

HEX = "0123456789abcdef"
names = st.text(st.sampled_from("abcXYZ019_-.äß生料磨"), min_size=1, max_size=64)
epochs = st.text(st.sampled_from(HEX), min_size=32, max_size=32)
schema_ids = st.text(st.sampled_from(HEX), min_size=64, max_size=64)
int64 = st.integers(INT_MIN, INT_MAX)
times = st.one_of(st.integers(1_600_000_000_000_000, 1_900_000_000_000_000), int64)
storable_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
keys = st.builds(BatchKey, names, names, epochs, st.integers(1, INT_MAX))
clocks = st.builds(ClockState, st.booleans(), storable_text, int64)

values: dict[ValueType, st.SearchStrategy[Value]] = {
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "int": int64,
    "bool": st.booleans(),
    "text": storable_text,
}


@st.composite
def columns(draw: st.DrawFn, value_type: ValueType) -> Columns:
    """A group of readings; qualities are left out when all are good, as after decoding."""
    size = draw(st.integers(1, 12))

    def several(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[list[T]]:
        return st.lists(strategy, min_size=size, max_size=size)

    qualities = draw(
        st.one_of(
            st.just([0] * size),
            several(st.integers(0, 255)),
            several(st.sampled_from([0, 64, 128])),
        )
    )
    drawn = draw(several(values[value_type]))
    return Columns(
        points=draw(several(st.one_of(st.integers(0, 200), st.integers(0, MAX_POINT)))),
        offsets_us=draw(several(st.integers(-MAX_OFFSET_US, MAX_OFFSET_US))),
        values=[None if code >= FIRST_BAD else value for value, code in zip(drawn, qualities, strict=True)],
        qualities=qualities if any(qualities) else [],
    )


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Any batch that an agent may send."""
    kinds = draw(st.sets(st.sampled_from(VALUE_TYPES), min_size=1))
    return Batch(
        key=draw(keys),
        schema_id=draw(schema_ids),
        created_us=draw(times),
        clock=draw(clocks),
        base_us=draw(st.one_of(st.just(1_655_136_000_000_000), st.integers(-MAX_BASE_US, MAX_BASE_US))),
        columns={kind: draw(columns(kind)) for kind in VALUE_TYPES if kind in kinds},
    )


@st.composite
def seq_ranges(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    """Ascending disjoint inclusive ranges of seqs."""
    bounds = sorted(draw(st.sets(st.integers(1, INT_MAX), max_size=8)))
    return tuple(zip(bounds[::2], bounds[1::2], strict=False))


@st.composite
def mutations(draw: st.DrawFn, payload: bytes) -> bytes:
    """The payload with some bytes replaced, inserted, removed or cut off."""
    data = bytearray(payload)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["replace", "insert", "remove", "cut", "double"])):
            case "replace" if data:
                data[place] = draw(st.integers(0, 255))
            case "insert":
                data[place:place] = draw(st.sampled_from([b"0", b'"', b"-", b"9" * 25, b"null", b"[", b"}", b"1e400"]))
            case "remove":
                del data[place : place + draw(st.integers(1, 8))]
            case "cut":
                del data[place:]
            case _:
                data[place:place] = data[place : place + 20]
    return bytes(data)


json_values: st.SearchStrategy[object] = st.recursive(
    st.one_of(st.none(), st.booleans(), int64, st.floats(allow_nan=False, allow_infinity=False), storable_text),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(storable_text, inner, max_size=4)),
    max_leaves=12,
)
