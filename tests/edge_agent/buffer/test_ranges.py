"""Ranges against sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.buffer import ranges

SPANS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1])))


def members(spans: object) -> set[int]:
    return {seq for first, last in spans for seq in range(first, last + 1)}  # type: ignore[attr-defined]


@given(SPANS)
def test_a_union_holds_the_same_seqs_ascending_and_apart(spans: list[ranges.Range]) -> None:
    merged = ranges.union(spans)
    assert members(merged) == members(spans)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(merged))


@given(SPANS, st.integers(1, 30), st.integers(0, 30))
def test_holes_are_what_is_left_out(spans: list[ranges.Range], first: int, size: int) -> None:
    last = first + size
    assert members(ranges.holes(spans, first, last)) == set(range(first, last + 1)) - members(spans)


def test_an_empty_watermark_holds_nothing() -> None:
    assert list(ranges.holes([(1, 0)], 1, 3)) == [(1, 3)]
    assert list(ranges.holes([(1, 0), (2, 2)], 1, 3)) == [(1, 1), (3, 3)]
