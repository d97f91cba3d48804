"""From changes to base intervals."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.settle.use import merge

_SPANS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)).map(lambda s: (s[0], s[0] + s[1])), max_size=20)


@given(_SPANS, st.integers(0, 30))
def test_merged_spans_cover_all_and_lie_apart(spans: list[tuple[int, int]], distance: int) -> None:
    merged = merge(spans, distance)
    assert all(any(a <= first and last <= b for a, b in merged) for first, last in spans)
    assert all(second[0] - first[1] > distance for first, second in itertools.pairwise(merged))
    assert {a for a, _ in merged} <= {first for first, _ in spans}
    assert {b for _, b in merged} <= {last for _, last in spans}
