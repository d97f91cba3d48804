from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.errors import KernelInputError
from accounting.kernels.counter import (
    LONGEST_RUN,
    NO_TIME_AFTER,
    NO_TIME_BEFORE,
    CounterUse,
    Flag,
    counter_use,
)
from tests.accounting import naive

S = 1_000_000
MINUTE = 60 * S
HOUR = 3600 * S
GAP = 15 * MINUTE


def use_of(readings: list[tuple[int, float]], edges: list[int], **rule: Any) -> CounterUse:
    rule.setdefault("gap_limit_us", GAP)
    times = np.array([t for t, _ in readings], np.int64)
    values = np.array([v for _, v in readings], np.float64)
    return counter_use(times, values, np.array(edges, np.int64), **rule)


def flags_of(result: CounterUse, interval: int = 0) -> Flag:
    return Flag(int(result.flags[interval]))


# Worked examples


def test_a_rollover_counts_what_lies_beyond_the_modulus() -> None:
    result = use_of([(0, 999984.0625), (10 * S, 20.0)], [0, 10 * S], modulus=1e6)
    assert result.use[0] * 1e-6 == pytest.approx(35.9375, abs=1e-12)
    assert result.use[0] == 35_937_500
    assert flags_of(result) == Flag.ROLLOVER
    assert result.covered_us[0] == 10 * S


def test_a_transient_zero_is_no_use() -> None:
    result = use_of([(0, 3.737), (10 * S, 0.0), (20 * S, 3.746)], [0, 20 * S])
    assert result.use[0] == 9_000
    assert flags_of(result) == Flag.TRANSIENT
    assert result.covered_us[0] == 20 * S


def test_a_silence_over_midnight_is_split_by_time() -> None:
    midnight = 1_655_136_000 * S  # 2022-06-14 00:00 in Shanghai
    start = midnight - 12 * S
    end = midnight + (6 * 3600 + 14 * 60 + 49) * S
    assert end - start == 22_501 * S
    edges = [midnight - HOUR, *(midnight + h * HOUR for h in range(8))]
    result = use_of([(start, 38312088.0), (end, 38315900.0)], edges, gap_limit_us=HOUR)
    kwh = [round(x * 1e-6, 3) for x in result.use.tolist()]
    assert kwh == [2.033, *[609.893] * 6, 150.610]
    assert result.use.sum() == 3_812_000_000
    assert result.estimated.tolist() == result.use.tolist()
    assert result.covered_us.tolist() == [0] * 8
    assert all(flags_of(result, n) & Flag.ESTIMATED for n in range(8))


# Incidents


def test_a_reset_is_not_covered_and_invents_nothing() -> None:
    result = use_of([(0, 500.0), (10 * S, 510.0), (20 * S, 7.0), (30 * S, 9.0)], [0, 10 * S, 20 * S, 30 * S])
    assert result.use.tolist() == [10_000_000, 0, 2_000_000]
    assert result.has_use.tolist() == [True, False, True]
    assert result.covered_us.tolist() == [10 * S, 0, 10 * S]
    assert [flags_of(result, n) for n in range(3)] == [Flag(0), Flag.RESET, Flag(0)]


def test_a_reset_beside_use_leaves_a_hole_in_the_coverage() -> None:
    result = use_of([(0, 500.0), (10 * S, 510.0), (20 * S, 7.0), (30 * S, 9.0)], [0, 30 * S])
    assert result.use.tolist() == [12_000_000]
    assert result.covered_us.tolist() == [20 * S]
    assert flags_of(result) == Flag.RESET


def test_a_reset_with_a_modulus_is_no_rollover() -> None:
    readings = [(0, 400_000.0), (10 * S, 5.0), (20 * S, 6.0)]
    for rule in ({"modulus": 1e6}, {"modulus": 1e6, "max_rate_per_h": 9000.0}):
        result = use_of(readings, [0, 20 * S], **rule)
        assert result.use.tolist() == [1_000_000]
        assert flags_of(result) == Flag.RESET


def test_after_a_silence_a_fall_of_more_than_half_the_modulus_is_no_rollover() -> None:
    result = use_of([(0, 40.0), (10 * HOUR, 0.0)], [0, 10 * HOUR], modulus=100.0, max_rate_per_h=9.0)
    assert not result.has_use[0]
    assert flags_of(result) == Flag.RESET


def test_a_silence_that_may_hide_a_turn_of_the_counter_is_unknown() -> None:
    readings = [(0, 40.0), (12 * HOUR, 41.0)]
    known = use_of(readings, [0, 12 * HOUR], modulus=100.0, max_rate_per_h=8.0)
    assert known.use.tolist() == [1_000_000]
    hidden = use_of(readings, [0, 12 * HOUR], modulus=100.0, max_rate_per_h=9.0)
    assert not hidden.has_use[0]
    assert flags_of(hidden) == Flag.JUMP


@pytest.mark.parametrize("run", [1, 2, LONGEST_RUN])
@pytest.mark.parametrize("level", [0.0, 5000.0])
@pytest.mark.parametrize("rate", [None, 3600.0])
def test_a_run_of_zeros_or_spikes_disappears(run: int, level: float, rate: float | None) -> None:
    before = [(k * S, 1000.0 + 0.1 * k) for k in range(10)]
    middle = [((10 + k) * S, level) for k in range(run)]
    after = [(k * S, 1000.0 + 0.1 * k) for k in range(10 + run, 20 + run)]
    result = use_of(before + middle + after, [0, (19 + run) * S], max_rate_per_h=rate)
    assert result.use.tolist() == [(19 + run) * 100_000]
    assert flags_of(result) == Flag.TRANSIENT


def test_a_run_of_zeros_too_long_for_a_transient_adds_nothing() -> None:
    before = [(k * S, 1000.0) for k in range(10)]
    zeros = [((10 + k) * S, 0.0) for k in range(LONGEST_RUN + 1)]
    after = [((10 + LONGEST_RUN + 1 + k) * S, 1000.5) for k in range(10)]
    result = use_of(before + zeros + after, [0, after[-1][0]], max_rate_per_h=3600.0)
    assert result.use.tolist() == [0]
    assert flags_of(result) == Flag.RESET | Flag.JUMP
    assert result.covered_us[0] == after[-1][0] - 2 * S


def test_a_run_longer_than_the_gap_limit_is_no_transient() -> None:
    readings = [(0, 1000.0), (400 * S, 0.0), (800 * S, 0.0), (1200 * S, 1000.5)]
    result = use_of(readings, [0, 1200 * S], max_rate_per_h=100.0)
    assert flags_of(result) == Flag.RESET | Flag.JUMP
    assert result.use.tolist() == [0]


def test_a_counter_that_starts_again_and_counts_on_is_a_reset() -> None:
    batch = [float(x) for x in range(0, 50, 5)]
    readings = [(k * S, v) for k, v in enumerate(batch * 3)]
    result = use_of(readings, [0, readings[-1][0]])
    assert result.use.tolist() == [3 * 45_000_000]
    assert flags_of(result) == Flag.RESET
    assert result.covered_us[0] == readings[-1][0] - 2 * S


def test_a_jump_faster_than_the_maximum_rate_is_unknown() -> None:
    readings = [(0, 10.0), (10 * S, 10.1), (20 * S, 900.0), (30 * S, 900.1)]
    result = use_of(readings, [0, 30 * S], max_rate_per_h=100.0)
    assert result.use.tolist() == [200_000]
    assert result.covered_us.tolist() == [20 * S]
    assert flags_of(result) == Flag.JUMP


def test_one_step_of_a_coarse_register_is_never_too_fast() -> None:
    readings = [(k * 10 * S, float(k // 4)) for k in range(13)]
    fine = use_of(readings, [0, 120 * S], max_rate_per_h=100.0, step=1.0)
    assert fine.use.tolist() == [3_000_000]
    assert flags_of(fine) == Flag(0)


def test_a_jitter_of_a_standing_counter_is_no_use() -> None:
    readings = [(k * 10 * S, 5.0 + 0.1 * (k % 2)) for k in range(1, 60)]
    result = use_of(readings, [10 * S, 590 * S])
    assert result.use.tolist() == [0]
    assert result.covered_us.tolist() == [580 * S]


def test_a_gap_is_estimated_and_not_covered() -> None:
    readings = [(0, 10.0), (10 * S, 11.0), (10 * S + GAP + 1, 21.0), (20 * S + GAP, 22.0)]
    result = use_of(readings, [0, 20 * S + GAP])
    assert result.use.tolist() == [12_000_000]
    assert result.estimated.tolist() == [10_000_000]
    assert result.covered_us.tolist() == [20 * S - 1]
    assert flags_of(result) == Flag.GAP | Flag.ESTIMATED


def test_a_silence_of_just_the_gap_limit_is_covered() -> None:
    result = use_of([(0, 10.0), (GAP, 21.0)], [0, GAP])
    assert result.covered_us.tolist() == [GAP]
    assert flags_of(result) == Flag(0)


def test_a_gap_without_use_is_flagged_and_nothing_is_estimated() -> None:
    result = use_of([(0, 10.0), (2 * GAP, 10.0)], [0, 2 * GAP])
    assert (result.use[0], bool(result.has_use[0]), result.estimated[0]) == (0, True, 0)
    assert flags_of(result) == Flag.GAP


# Ends


def test_nothing_known_is_never_a_zero() -> None:
    for readings in ([], [(5 * S, 7.0)]):
        result = use_of(readings, [0, 10 * S, 20 * S])
        assert result.has_use.tolist() == [False, False]
        assert result.covered_us.tolist() == [0, 0]
    assert flags_of(use_of([], [0, S])) == Flag.PARTIAL_START | Flag.PARTIAL_END


def test_the_ends_of_a_series_are_partial() -> None:
    result = use_of([(5 * S, 1.0), (25 * S, 3.0)], [-10 * S, 0, 10 * S, 20 * S, 30 * S, 40 * S])
    assert result.use.tolist() == [0, 500_000, 1_000_000, 500_000, 0]
    assert result.has_use.tolist() == [False, True, True, True, False]
    assert [flags_of(result, n) for n in range(5)] == [
        Flag.PARTIAL_START,
        Flag.PARTIAL_START,
        Flag(0),
        Flag.PARTIAL_END,
        Flag.PARTIAL_END,
    ]
    assert (result.needs_from_us, result.needs_to_us) == (NO_TIME_BEFORE, NO_TIME_AFTER)


def test_a_standing_counter_has_a_use_of_zero() -> None:
    result = use_of([(0, 7.0), (10 * S, 7.0)], [0, 10 * S])
    assert (result.use[0], bool(result.has_use[0]), result.covered_us[0]) == (0, True, 10 * S)


# Range


@pytest.mark.parametrize("dt", [S, 40 * MINUTE, HOUR * 24 * 400, 2**59])
def test_the_largest_values_are_exact(dt: int) -> None:
    readings = [(-dt, 0.0), (dt, 9e15)]
    edges = [-dt, -dt // 3, 0, dt - 1, dt]
    result = use_of(readings, edges, resolution=1.0)
    expected = naive.Counter(gap_limit_us=GAP, resolution=1.0).use([-dt, dt], [0.0, 9e15], edges)
    assert result.use.tolist() == expected.use
    assert int(result.use.sum()) == 9 * 10**15


def test_values_beyond_exact_integers_are_refused() -> None:
    with pytest.raises(KernelInputError, match=r"values\[1\] is 9100000000000000\.0; allowed: up to 9\.0072e\+15"):
        use_of([(0, 1.0), (S, 9.1e15)], [0, S], resolution=1.0)
    with pytest.raises(KernelInputError, match=r"values\[0\] is -1e\+16"):
        use_of([(0, -1e16), (S, 0.0)], [0, S], resolution=1.0)


def test_a_sum_beyond_the_fixed_point_range_is_refused() -> None:
    # A counter of enormous modulus that turns at every reading.
    values = [0.0, 4e15, 8e15] * 300
    readings = [(k * S, v) for k, v in enumerate(values)]
    with pytest.raises(KernelInputError, match="coarser resolution"):
        use_of(readings, [0, len(values) * S], resolution=1.0, modulus=9e15, max_rate_per_h=1.6e19)


BAD: list[tuple[str, list[tuple[int, float]], list[int], dict[str, Any]]] = [
    (r"values\[1\] is nan; allowed: finite", [(0, 1.0), (S, float("nan"))], [0, S], {}),
    (r"values\[0\] is inf; allowed: finite", [(0, float("inf")), (S, 1.0)], [0, S], {}),
    (r"times_us\[2\] is 5 after 9; allowed: strictly ascending", [(1, 1.0), (9, 1.0), (5, 1.0)], [0, S], {}),
    (r"times_us\[1\] is 1 after 1; allowed: strictly ascending", [(1, 1.0), (1, 2.0)], [0, S], {}),
    (r"edges_us has shape \(1,\); allowed: 1-D, at least 2", [], [0], {}),
    (r"edges_us are not strictly ascending", [], [0, 5, 5], {}),
    (r"edges_us are not strictly ascending times", [], [-(2**63), 0], {}),
    (r"times_us\[0\] is -9223372036854775808 .* within 2\*\*60", [(-(2**63), 1.0)], [0, S], {}),
    (r"resolution 0 is not allowed", [], [0, S], {"resolution": 0}),
    (r"resolution nan is not allowed", [], [0, S], {"resolution": float("nan")}),
    (r"gap_limit_us 0 is not allowed; allowed: above 0", [], [0, S], {"gap_limit_us": 0}),
    (r"modulus -1.0 is not allowed", [], [0, S], {"modulus": -1.0}),
    (
        r"modulus 1.5 is not allowed; allowed: whole multiples of the resolution 1 ",
        [],
        [0, S],
        {"modulus": 1.5, "resolution": 1.0},
    ),
    (r"modulus 1e\+20 is not allowed; allowed: whole multiples", [], [0, S], {"modulus": 1e20}),
    (r"max_rate_per_h inf is not allowed", [], [0, S], {"max_rate_per_h": float("inf")}),
    (r"step -1 is not allowed; allowed: 0 or above", [], [0, S], {"step": -1}),
]


@pytest.mark.parametrize(("message", "readings", "edges", "rule"), BAD, ids=[b[0] for b in BAD])
def test_bad_input_is_refused_by_name(
    message: str, readings: list[tuple[int, float]], edges: list[int], rule: dict[str, Any]
) -> None:
    with pytest.raises(KernelInputError, match=message):
        use_of(readings, edges, **rule)


def test_arrays_of_different_length_are_refused() -> None:
    with pytest.raises(KernelInputError, match=r"times_us has shape \(2,\), values \(1,\)"):
        counter_use(np.array([0, 1]), np.array([1.0]), np.array([0, 1]), gap_limit_us=1)


# Laws

RULES: list[dict[str, Any]] = [
    {"gap_limit_us": 30 * S},
    {"gap_limit_us": 30 * S, "max_rate_per_h": 3600.0},
    {"gap_limit_us": 30 * S, "max_rate_per_h": 3600.0, "step": 2.0},
    {"gap_limit_us": 30 * S, "modulus": 64.0},
    {"gap_limit_us": 30 * S, "modulus": 64.0, "max_rate_per_h": 3600.0},
    {"gap_limit_us": 7 * S, "modulus": 64.0, "max_rate_per_h": 900.0, "resolution": 0.25},
    {"gap_limit_us": 1000 * S, "resolution": 1.0},
]

INCIDENTS = ("count", "count", "count", "count", "stand", "zero", "spike", "fall", "silence", "noise")


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[float], dict[str, Any]]:
    """Readings of a counter to which all sorts of things happen, and a rule to read it by."""
    rule = draw(st.sampled_from(RULES))
    modulus = rule.get("modulus", 1e9)
    time, level = draw(st.integers(-100 * S, 100 * S)), draw(st.floats(0, 60))
    times, values = [], []
    for what in draw(st.lists(st.sampled_from(INCIDENTS), max_size=40)):
        time += draw(st.integers(1, 9)) * S + draw(st.integers(0, 3))
        value = None
        if what == "count":
            level += draw(st.floats(0, 2))
        elif what == "zero":
            value = 0.0
        elif what == "spike":
            value = level + draw(st.floats(1, 60))
        elif what == "fall":
            level = draw(st.floats(0, 10))
        elif what == "silence":
            time += draw(st.integers(20, 5000)) * S
            level += draw(st.floats(0, 100))
        elif what == "noise":
            value = draw(st.floats(-10, 80))
        level %= modulus
        times.append(time)
        values.append(level if value is None else value)
    return times, values, rule


def edges_around(times: list[int]) -> st.SearchStrategy[list[int]]:
    low, high = (min(times), max(times)) if times else (0, S)
    inner = st.one_of(st.integers(low - 50 * S, high + 50 * S), st.sampled_from(times or [0]))
    return st.sets(inner, min_size=2, max_size=12).map(sorted)


def kernel(times: list[int], values: list[float], edges: list[int], rule: dict[str, Any]) -> CounterUse:
    return counter_use(np.array(times, np.int64), np.array(values, np.float64), np.array(edges, np.int64), **rule)


def columns(result: CounterUse | naive.Use) -> list[list[int]]:
    names = ("use", "has_use", "covered_us", "estimated", "flags")
    return [[int(x) for x in getattr(result, name)] for name in names]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_the_kernel_equals_its_plain_twin_to_the_last_bit(data: st.DataObject) -> None:
    times, values, rule = data.draw(histories())
    edges = data.draw(edges_around(times))
    result = kernel(times, values, edges, rule)
    twin = naive.Counter(**rule).use(times, values, edges)
    assert columns(result) == columns(twin)
    assert (result.needs_from_us, result.needs_to_us) == (twin.needs_from_us, twin.needs_to_us)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_intervals_add_up_exactly_however_the_axis_is_split(data: st.DataObject) -> None:
    times, values, rule = data.draw(histories())
    edges = data.draw(edges_around(times))
    fine = kernel(times, values, edges, rule)
    kept = sorted({edges[0], edges[-1], *data.draw(st.sets(st.sampled_from(edges)))})
    coarse = kernel(times, values, kept, rule)
    at = [edges.index(e) for e in kept]
    for n, (a, b) in enumerate(pairwise(at)):
        assert coarse.use[n] == fine.use[a:b].sum()
        assert coarse.covered_us[n] == fine.covered_us[a:b].sum()
        assert coarse.estimated[n] == fine.estimated[a:b].sum()
        assert coarse.has_use[n] == fine.has_use[a:b].any()
        assert coarse.flags[n] == np.bitwise_or.reduce(fine.flags[a:b])


def on_a_shard(times: list[int], values: list[float], edges: list[int], rule: dict[str, Any]) -> CounterUse:
    """What a worker does that starts with the readings next to its shard and widens as the result says."""
    count = len(times)
    low = int(np.searchsorted(times, edges[0], side="right")) - 1
    high = int(np.searchsorted(times, edges[-1], side="left"))
    low, high = max(low, 0), min(high, count - 1)
    while True:
        result = kernel(times[low : high + 1], values[low : high + 1], edges, rule)
        more_before = low > 0 and times[low - 1] >= result.needs_from_us
        more_after = high < count - 1 and times[high + 1] <= result.needs_to_us
        if not more_before and not more_after:
            return result
        low, high = low - more_before, high + more_after


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_shard_with_its_neighbourhood_gives_the_bits_of_the_whole(data: st.DataObject) -> None:
    times, values, rule = data.draw(histories())
    edges = data.draw(edges_around(times))
    whole = columns(kernel(times, values, edges, rule))
    first = data.draw(st.integers(0, len(edges) - 2))
    last = data.draw(st.integers(first + 1, len(edges) - 1))
    shard = columns(on_a_shard(times, values, edges[first : last + 1], rule))
    assert shard == [column[first:last] for column in whole]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_arrival_order_does_not_matter(data: st.DataObject) -> None:
    times, values, rule = data.draw(histories())
    edges = data.draw(edges_around(times))
    order = data.draw(st.permutations(range(len(times))))
    arrived = np.array([times[k] for k in order], np.int64), np.array([values[k] for k in order], np.float64)
    by_time = np.argsort(arrived[0], kind="stable")
    late = counter_use(arrived[0][by_time], arrived[1][by_time], np.array(edges, np.int64), **rule)
    assert columns(late) == columns(kernel(times, values, edges, rule))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_is_known_is_never_negative_and_never_more_covered_than_there_is_time(data: st.DataObject) -> None:
    times, values, rule = data.draw(histories())
    edges = data.draw(edges_around(times))
    result = kernel(times, values, edges, rule)
    assert (result.use >= 0).all()
    assert (result.estimated <= result.use).all()
    assert (result.covered_us <= np.diff(edges)).all()
    assert (result.use[~result.has_use] == 0).all()
    assert (result.covered_us[~result.has_use] == 0).all()


def test_a_clean_counter_needs_only_the_readings_at_the_edges() -> None:
    rng = np.random.default_rng(7)
    times = np.cumsum(rng.integers(1, 20 * S, 5000)).astype(np.int64)
    values: npt.NDArray[np.float64] = np.cumsum(rng.random(5000)) + 123456.0
    edges = np.arange(0, int(times[-1]) + HOUR, GAP, dtype=np.int64)
    result = counter_use(times, values, edges, gap_limit_us=GAP)
    cumulative = np.interp(edges, times, np.rint(values / 1e-6) - np.rint(values[0] / 1e-6))
    np.testing.assert_allclose(result.use, np.diff(cumulative), atol=1.5)


def test_a_plain_twin_of_a_thousand_readings_agrees() -> None:
    rng = np.random.default_rng(11)
    times = np.cumsum(rng.integers(S, 30 * S, 1000)).tolist()
    values = np.cumsum(rng.random(1000)) + 1000.0
    values[rng.random(1000) < 0.03] = 0.0
    values[rng.random(1000) < 0.03] *= 3
    values[600:] -= 900
    edges = list(range(0, times[-1] + GAP, GAP))
    rule: dict[str, Any] = {"gap_limit_us": 10 * MINUTE, "max_rate_per_h": 7200.0}
    assert columns(kernel(times, values.tolist(), edges, rule)) == columns(
        naive.Counter(**rule).use(times, values.tolist(), edges)
    )


# Compilation


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="this is the run without compilation")
def test_these_promises_hold_without_compilation_too() -> None:
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(here)],
        cwd=here.parents[3],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "1 skipped" in done.stdout
