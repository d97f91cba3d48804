from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.errors import SeriesError
from accounting.kernels.counter import Flag, counter_use
from accounting.series import Series, resolution_for, total
from accounting.unit_use import unit_use

EDGES = np.array([0, 10, 20, 30], np.int64)


def made(
    amounts: list[int | None], covered: list[int] | None = None, estimated: list[int] | None = None, flags: int = 0
) -> Series:
    n = len(amounts)
    return Series(
        np.arange(0, 10 * n + 1, 10, dtype=np.int64),
        np.array([a or 0 for a in amounts], np.int64),
        np.array([a is not None for a in amounts]),
        np.array(covered or [0 if a is None else 10 for a in amounts], np.int64),
        np.array(estimated or [0] * n, np.int64),
        np.full(n, flags, np.uint8),
    )


@st.composite
def parts(draw: st.DrawFn, n: int = 8) -> Series:
    amounts = draw(st.lists(st.one_of(st.none(), st.integers(-(2**50), 2**50)), min_size=n, max_size=n))
    covered = [0 if a is None else draw(st.integers(0, 10)) for a in amounts]
    estimated = [0 if a is None else draw(st.integers(0, abs(a))) for a in amounts]
    return made(amounts, covered, estimated, draw(st.integers(0, 255)))


def columns(s: Series) -> list[list[Any]]:
    return [a.tolist() for a in (s.edges_us, s.amount, s.known, s.covered_us, s.estimated, s.flags)]


# Laws


@settings(deadline=None)
@given(st.lists(parts(), min_size=1, max_size=5), st.randoms())
def test_a_sum_does_not_depend_on_the_order(several: list[Series], rng: Any) -> None:
    shuffled = list(several)
    rng.shuffle(shuffled)
    assert columns(total(several)) == columns(total(shuffled))


@settings(deadline=None)
@given(st.lists(parts(), min_size=2, max_size=5), st.integers(1, 4))
def test_a_sum_of_sums_is_the_sum(several: list[Series], at: int) -> None:
    at = min(at, len(several) - 1)
    assert columns(total([total(several[:at]), total(several[at:])])) == columns(total(several))


@settings(deadline=None)
@given(st.lists(parts(), min_size=1, max_size=4), st.sets(st.integers(1, 7)))
def test_amounts_add_up_whichever_sum_comes_first(several: list[Series], cuts: set[int]) -> None:
    edges = np.array([0, *(10 * cut for cut in sorted(cuts)), 80], np.int64)
    first_meters = total(several).longer(edges)
    first_time = total([s.longer(edges) for s in several])
    assert first_meters.amount.tolist() == first_time.amount.tolist()
    assert first_meters.estimated.tolist() == first_time.estimated.tolist()
    assert first_meters.flags.tolist() == first_time.flags.tolist()
    assert (first_meters.covered_us <= first_time.covered_us).all()


@settings(deadline=None)
@given(parts(), st.sets(st.integers(1, 7)), st.sets(st.integers(1, 7)))
def test_longer_intervals_can_be_made_in_steps(one: Series, fine: set[int], coarse: set[int]) -> None:
    outer = np.array([0, *(10 * cut for cut in sorted(coarse)), 80], np.int64)
    inner = np.array([0, *(10 * cut for cut in sorted(fine | coarse)), 80], np.int64)
    assert columns(one.longer(inner).longer(outer)) == columns(one.longer(outer))


# What is known


def test_a_sum_is_known_only_where_all_its_parts_are() -> None:
    both = total([made([5, None, 7]), made([1, 2, 3])])
    assert both.known.tolist() == [True, False, True]
    np.testing.assert_equal(both.values, [6e-6, np.nan, 10e-6])
    assert both.coverage.tolist() == [1.0, 0.0, 1.0]


def test_a_sum_is_covered_no_longer_than_its_least_part() -> None:
    both = total([made([5, 5, 5], [10, 4, 10]), made([1, 1, 1], [10, 10, 7])])
    assert both.coverage.tolist() == [1.0, 0.4, 0.7]


def test_a_longer_interval_shows_what_is_missing_in_its_coverage() -> None:
    day = made([5, None, 7], [10, 0, 5]).longer(np.array([0, 30], np.int64))
    assert day.values.tolist() == [12e-6]
    assert day.coverage.tolist() == [0.5]


def test_an_interval_of_which_nothing_is_known_has_no_figure() -> None:
    nothing = Series.unknown(EDGES)
    assert np.isnan(nothing.values).all()
    assert np.isnan(nothing.estimated_share).all()
    assert np.isnan(nothing.longer(np.array([0, 30])).values).all()
    assert np.isnan(total([nothing, made([1, 2, 3])]).values).all()


def test_a_known_use_of_zero_is_a_figure() -> None:
    assert made([0, 0, 0]).values.tolist() == [0.0, 0.0, 0.0]


def test_the_estimated_share_is_told() -> None:
    shares = made([10, 10, 0, 4], estimated=[0, 5, 0, 9]).estimated_share
    assert shares.tolist() == [0.0, 0.5, 0.0, 1.0]


def test_flags_of_all_parts_are_kept() -> None:
    both = total([made([1], flags=int(Flag.RESET)), made([1], flags=int(Flag.GAP))])
    assert Flag(int(both.flags[0])) == Flag.RESET | Flag.GAP


# Shares and units


def test_minus_one_subtracts_exactly() -> None:
    largest = 2**60 + 1
    one = made([largest, 3], estimated=[3, 0])
    rest = total([one, one.times(-1.0)])
    assert rest.amount.tolist() == [0, 0]
    assert one.times(-1.0).amount.tolist() == [-largest, -3]
    assert one.times(-1.0).estimated.tolist() == [3, 0]


def test_a_share_is_rounded_once_an_interval() -> None:
    assert made([5, 7]).times(0.5).amount.tolist() == [2, 4]


def test_counters_in_other_units_come_out_in_canonical_ones() -> None:
    times, edges = np.array([0, 10]), np.array([0, 10])
    for value, factor in ((1.5, 1e3), (1500.0, 1.0), (1_500_000.0, 1e-3)):
        resolution = resolution_for(factor)
        use = counter_use(times, np.array([0.0, value]), edges, resolution=resolution, gap_limit_us=100)
        of = Series.of_counter(use, edges, resolution=resolution, unit_factor=factor)
        assert of.amount.tolist() == [1_500_000_000]
        assert of.values.tolist() == [1500.0]


def test_the_resolution_is_about_a_millionth_of_the_canonical_unit() -> None:
    assert resolution_for(1.0) == 1e-6
    assert resolution_for(1e-3) == 1e-3
    assert resolution_for(1e3) == 1e-9
    assert resolution_for(1 / 0.0036) == 1e-8


def test_an_amount_beyond_the_fixed_point_range_is_refused() -> None:
    edges = np.array([0, 10])
    use = counter_use(edges, np.array([0.0, 5e15]), edges, resolution=1.0, gap_limit_us=10)
    with pytest.raises(SeriesError, match=r"an amount of 5e\+21 fixed-point units; allowed: up to"):
        Series.of_counter(use, edges, resolution=1.0)


def test_series_over_different_intervals_are_refused() -> None:
    with pytest.raises(SeriesError, match="different intervals"):
        total([made([1, 2]), made([1, 2, 3])])
    with pytest.raises(SeriesError, match="different intervals"):
        unit_use(made([1, 2]), made([1, 2, 3]))
    with pytest.raises(SeriesError, match="no series"):
        total([])


# Unit use


def test_unit_use_is_use_by_output() -> None:
    result = unit_use(made([14_420_000, 28_400_000]), made([1_000_000, 2_000_000]))
    assert result.value.tolist() == [14.42, 14.2]


@pytest.mark.parametrize("output", [0, None, -5])
def test_without_output_there_is_no_figure(output: int | None) -> None:
    result = unit_use(made([14_420_000]), made([output]))
    assert np.isnan(result.value).all()


def test_without_a_use_there_is_no_figure() -> None:
    result = unit_use(made([None]), made([1_000_000]))
    assert np.isnan(result.value).all()
    assert result.coverage.tolist() == [0.0]


def test_a_figure_is_no_better_than_its_inputs() -> None:
    result = unit_use(made([10, 10], [10, 5], [0, 4]), made([10, 10], [8, 10], [1, 0]))
    assert result.coverage.tolist() == [0.8, 0.5]
    assert result.estimated_share.tolist() == [0.1, 0.4]
