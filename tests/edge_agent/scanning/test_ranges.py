"""The search for readable blocks: against tables made up, without a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.scanning.ranges import Search, Span

Table = frozenset[int]
tables = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 150)), max_size=6).map(
    lambda spans: frozenset(address for first, count in spans for address in range(first, first + count))
)


def searched(
    table: Table,
    span: Span,
    most: int = 124,
    *,
    limit: int = 125,
    landmarks: Iterable[int] = (100, 256),
    known: Sequence[Span] = (),
    requests: int = 1_000_000,
) -> tuple[Search, int]:
    """A search of a device with a limit of its own, and how many requests it took."""
    search = Search(span, most, landmarks, known)
    made = 0
    while made < requests and (block := search.next()) is not None:
        made += 1
        wanted = range(block[0], block[1] + 1)
        good = len(wanted) <= limit and all(address in table for address in wanted)
        (search.readable if good else search.refused)(block)
    return search, made


def entries(search: Search) -> set[int]:
    return {address for first, last in search.spans for address in range(first, last + 1)}


def longest_run(addresses: Iterable[int]) -> int:
    best = run = 0
    before = -2
    for address in sorted(addresses):
        run = run + 1 if address == before + 1 else 1
        best, before = max(best, run), address
    return best


@given(
    tables,
    st.tuples(st.integers(0, 300), st.integers(0, 700)).map(lambda found: (found[0], found[0] + found[1])),
    st.sampled_from([124, 2000, 7, 1]),
    st.sampled_from([125, 100, 64, 50, 10, 3, 2, 1]),
    st.sampled_from([(), (100, 256), (10,)]),
    st.data(),
)
def test_with_enough_requests_all_that_is_readable_is_found_and_nothing_else(
    table: Table, span: Span, most: int, limit: int, landmarks: tuple[int, ...], data: st.DataObject
) -> None:
    known = [(one, one) for one in data.draw(st.sets(st.sampled_from(sorted(table)), max_size=3))] if table else []
    found, _ = searched(table, span, most, limit=limit, landmarks=landmarks, known=known)
    assert entries(found) == {one for one in table if span[0] <= one <= span[1]} | {one for one, _ in known}
    assert found.missed == 0
    assert found.unasked == 0


@given(tables, st.integers(1, 80))
def test_what_is_missed_is_no_longer_than_told(table: Table, requests: int) -> None:
    found, made = searched(table, (0, 999), requests=requests)
    assert made <= requests
    assert entries(found) <= table
    missing = {one for one in table if one <= 999} - entries(found)
    assert longest_run(missing) <= found.missed


@pytest.mark.parametrize(("requests", "missed"), [(90, 250), (300, 110), (1000, 60), (2500, 30)])
def test_what_may_be_missed_gets_short_with_few_requests(requests: int, missed: int) -> None:
    found, _ = searched(frozenset(range(81)), (0, 9999), requests=requests)
    assert 0 < found.missed <= missed


@given(tables, st.integers(1, 124))
@settings(max_examples=50)
def test_a_limit_of_the_device_is_never_told_too_high(table: Table, limit: int) -> None:
    found, _ = searched(table, (0, 999), limit=limit)
    assert found.longest <= limit
    assert found.max_entries is None or found.max_entries <= limit


@pytest.mark.parametrize(
    ("table", "requests"),
    [
        (frozenset(range(10_000)), 81),
        (frozenset(range(81)), 300),
        (frozenset(range(81)) | frozenset(range(342, 381)), 1000),
        (frozenset(range(1000, 1010)) | frozenset({5000, 5001}), 300),
        (frozenset(range(4096, 4200)), 300),
    ],
)
def test_maps_as_meters_have_them_are_found_by_few_requests(table: Table, requests: int) -> None:
    found, _ = searched(table, (0, 9999), requests=requests)
    assert entries(found) == table


def test_the_edges_of_a_block_cost_few_requests_more() -> None:
    _, coarse = searched(frozenset(), (0, 123), requests=1)
    _, made = searched(frozenset(range(37)), (0, 123), landmarks=(), requests=12)
    found, _ = searched(frozenset(range(37)), (0, 123), landmarks=(), requests=12)
    assert coarse == 1
    assert made == 12
    assert entries(found) == frozenset(range(37))


def test_a_device_that_gives_few_registers_at_once_is_found_out() -> None:
    found, made = searched(frozenset(range(10_000)), (0, 9999), limit=50)
    assert found.max_entries == 50
    assert found.spans == ((0, 9999),)
    assert made < 600


def test_what_is_known_is_not_asked_for() -> None:
    _, made = searched(frozenset(range(1000)), (0, 999), known=[(0, 499), (510, 999)])
    assert made == 1
