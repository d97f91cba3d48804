"""Patterns for paths in an address space."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.scanning.errors import ScanUsageError
from edge_agent.scanning.paths import Pattern, in_order, show

names = st.text(st.sampled_from("ab/&*. é"), min_size=1, max_size=4)
PATHS = [("Plant", "Line1", "Mill1", "Power"), ("Plant", "Line1", "Mill2", "Power"), ("Plant", "Line10", "Speed")]


@given(st.lists(names, min_size=1, max_size=4).map(tuple), st.lists(names, min_size=1, max_size=4).map(tuple))
def test_a_shown_path_is_a_pattern_for_itself_alone(path: tuple[str, ...], other: tuple[str, ...]) -> None:
    pattern = Pattern(show(path))
    assert pattern.matches(path)
    assert pattern.matches(other) == (other == path)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("Plant/*/Mill*/Power", [0, 1]),
        ("Plant/**", [0, 1, 2]),
        ("**/Power", [0, 1]),
        ("**", [0, 1, 2]),
        ("Plant/**/Speed", [2]),
        ("Plant/**/Line10/Speed", [2]),
        ("Plant/Line1*/**", [0, 1, 2]),
        ("Plant/Line1/*", []),
        ("plant/**", []),
        ("**/*1/Power", [0]),
        ("/Plant/*/Speed/", [2]),
        ("Power", []),
        ("Plant/Line.*/**", []),
    ],
)
def test_patterns_match_whole_paths(pattern: str, expected: list[int]) -> None:
    assert [n for n, path in enumerate(PATHS) if Pattern(pattern).matches(path)] == expected


@pytest.mark.parametrize("text", ["", "/", "a//b", "a/b**", "a&"])
def test_a_pattern_without_sense_is_refused(text: str) -> None:
    with pytest.raises(ScanUsageError, match="allowed:"):
        Pattern(text)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("Plant/Line1/Mil3/Power", ["Plant/Line1/Mill1", "Plant/Line1/Mill2"]),
        ("Plnt/**", ["Plant"]),
        ("Plant/**/Powr", ["Plant/Line1/Mill1/Power", "Plant/Line1/Mill2/Power"]),
        ("Plant/Line10/Power", ["Plant/Line10/Speed"]),
        ("Plant/Line*/Mill1/Pow", ["Plant/Line1/Mill1/Power"]),
    ],
)
def test_what_a_pattern_may_have_been_meant_for_is_found(pattern: str, expected: list[str]) -> None:
    assert Pattern(pattern).nearest(PATHS) == expected


def test_paths_are_sorted_as_people_do() -> None:
    paths = [("Mill10", "a"), ("Mill2", "b"), ("Mill2", "a"), ("10",), ("9b",), ("Mill",)]
    assert sorted(paths, key=in_order) == [
        ("9b",), ("10",), ("Mill",), ("Mill2", "a"), ("Mill2", "b"), ("Mill10", "a"),
    ]  # fmt: skip
