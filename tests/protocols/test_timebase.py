from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import ProtocolError
from protocols.timebase import REAL_TIME, US, TimeBase

NOW = 1_790_000_000 * US
stamps = st.integers(NOW - 10**7 * US, NOW + 10**7 * US)
bases = st.builds(
    TimeBase,
    st.integers(1_500_000_000 * US, NOW),
    stamps,
    st.one_of(st.sampled_from([1.0, 60.0, 1440.0, 0.5]), st.floats(0.01, 100_000)),
)


@given(bases, stamps)
def test_real_time_comes_back_from_plant_time(base: TimeBase, real: int) -> None:
    assert abs(base.real_us(base.plant_us(real)) - real) <= 0.5 / base.speed + 1


@given(bases, stamps)
def test_plant_time_comes_back_from_real_time(base: TimeBase, plant: int) -> None:
    float_us = abs(plant - base.origin_us) * 2**-51
    assert abs(base.plant_us(base.real_us(plant)) - plant) <= 0.5 * base.speed + 1 + float_us


@given(bases, stamps, stamps)
def test_time_never_runs_backwards(base: TimeBase, one: int, other: int) -> None:
    first, last = sorted((one, other))
    assert base.plant_us(first) <= base.plant_us(last)
    assert base.real_us(first) <= base.real_us(last)


@given(bases)
def test_the_anchor_is_the_origin(base: TimeBase) -> None:
    assert base.plant_us(base.anchor_us) == base.origin_us
    assert base.real_us(base.origin_us) == base.anchor_us


@given(stamps)
def test_real_time_is_itself(real: int) -> None:
    assert REAL_TIME.plant_us(real) == real == REAL_TIME.real_us(real)


def test_now_follows_the_real_clock() -> None:
    before = time.time_ns() // 1000
    now = REAL_TIME.now_us()
    assert before <= now <= time.time_ns() // 1000


def test_a_plant_day_at_1440_passes_in_a_minute() -> None:
    base = TimeBase(origin_us=1_655_136_000 * US, anchor_us=NOW, speed=1440.0)
    assert base.plant_us(NOW + 60 * US) == (1_655_136_000 + 86_400) * US
    assert base.real_seconds(86_400) == 60.0


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf"), 100_001.0])
def test_a_clock_that_stands_or_runs_wild_is_refused(speed: float) -> None:
    with pytest.raises(ProtocolError, match=r"clock speed .* allowed: above 0, up to 100000"):
        TimeBase(speed=speed)
