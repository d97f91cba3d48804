"""Which readings are sent: transitions to bad, heartbeats, steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.buffer.batcher import Batcher
from edge_agent.clock import Clock
from edge_agent.config import Batching
from edge_agent.polling.reporter import Reporter
from protocols.quality import Quality
from protocols.timebase import REAL_TIME, US
from tests.support import edge
from tests.support.edge import Catcher
from tests.support.wall import Wall

Sent = tuple[float, object, int]


def reporter(heartbeat: str, tag: str = "", clock: Clock | None = None) -> tuple[Reporter, Callable[[], list[Sent]]]:
    plan = edge.plan(edge.head(), edge.modbus(1), edge.device("m", edge.register("a", 1, extra=tag), extra=heartbeat))
    catcher = Catcher(plan.schema)
    batcher = Batcher(plan.schema.id(), Batching(), clock or Clock(REAL_TIME, simulated=True), catcher.write)

    def sent() -> list[Sent]:
        batcher.flush()
        return [(reading.at_us / US, reading.value, reading.quality) for reading in catcher.take()]

    return Reporter(plan.schema, batcher), sent


async def test_without_heartbeat_every_poll_is_sent() -> None:
    made, sent = reporter("")
    for n in range(3):
        made.good(0, 5, 0, n * US)
    assert sent() == [(0, 5, 0), (1, 5, 0), (2, 5, 0)]


async def test_with_heartbeat_an_unchanged_value_is_sent_once_per_heartbeat() -> None:
    made, sent = reporter("heartbeat_s = 4")
    for n in range(10):
        made.good(0, 5, 0, n * US)
    assert sent() == [(0, 5, 0), (4, 5, 0), (8, 5, 0)]


async def test_the_last_unchanged_poll_goes_out_before_a_step() -> None:
    made, sent = reporter("heartbeat_s = 9")
    for n, value in enumerate((5, 5, 5, 7, 8)):
        made.good(0, value, 0, n * US)
    assert sent() == [(0, 5, 0), (2, 5, 0), (3, 7, 0), (4, 8, 0)]


async def test_a_change_of_quality_is_a_change() -> None:
    made, sent = reporter("heartbeat_s = 9")
    made.good(0, 5, 0, 0)
    made.good(0, 5, Quality.UNCERTAIN, US)
    assert sent() == [(0, 5, 0), (1, 5, Quality.UNCERTAIN)]


async def test_the_same_source_time_is_the_same_reading_until_the_heartbeat() -> None:
    made, sent = reporter("heartbeat_s = 4")
    for n in range(6):
        made.good(0, 5, 0, n * US, stamp_us=-100 * US)
    made.good(0, 5, 0, 6 * US, stamp_us=round(5.5 * US))
    # First with its own time, then as still so when it was read; a new source time is a new reading.
    assert sent() == [(-100, 5, 0), (1, 5, 0), (5, 5, 0), (5.5, 5, 0)]


async def test_a_held_poll_later_than_the_next_source_time_is_not_sent() -> None:
    made, sent = reporter("heartbeat_s = 9")
    made.good(0, 5, 0, 0, stamp_us=0)
    made.good(0, 5, 0, 2 * US, stamp_us=0)
    made.good(0, 6, 0, 3 * US, stamp_us=US)
    assert sent() == [(0, 5, 0), (1, 6, 0)]


async def test_a_point_turns_bad_once_and_its_return_is_a_reading() -> None:
    made, sent = reporter("heartbeat_s = 9")
    made.good(0, 5, 0, 0)
    made.good(0, 5, 0, US)
    made.turn_bad((0,), Quality.BAD_TIMEOUT, 2 * US)
    made.turn_bad((0,), Quality.BAD_NO_COMMUNICATION, 3 * US)
    made.good(0, 5, 0, 4 * US)
    assert sent() == [(0, 5, 0), (1, 5, 0), (2, None, Quality.BAD_TIMEOUT), (4, 5, 0)]
    assert not made.bad


async def test_a_point_that_returns_with_an_old_source_time_is_good_from_the_poll_on() -> None:
    made, sent = reporter("heartbeat_s = 9")
    made.turn_bad((0,), Quality.BAD_NO_COMMUNICATION, 2 * US)
    made.good(0, 5, 0, 4 * US, stamp_us=US)
    made.good(0, 5, 0, 5 * US, stamp_us=US)
    assert sent() == [(2, None, Quality.BAD_NO_COMMUNICATION), (4, 5, 0)]


async def test_changes_within_the_deadband_are_not_sent_and_the_last_one_goes_out_before_a_step() -> None:
    made, sent = reporter("heartbeat_s = 9", "deadband = 2")
    for n, value in enumerate((10, 11, 12, 9, 8, 20, 21)):
        made.good(0, value, 0, n * US)
    # 8 is as far from 10 as allowed; it is what stood just before the step.
    assert sent() == [(0, 10, 0), (4, 8, 0), (5, 20, 0)]


async def test_a_deadband_in_percent_is_one_of_the_value_sent_last() -> None:
    made, sent = reporter("heartbeat_s = 9", "deadband_percent = 10")
    for n, value in enumerate((-100, -110, -111, -115, -123)):
        made.good(0, value, 0, n * US)
    assert sent() == [(0, -100, 0), (1, -110, 0), (2, -111, 0), (3, -115, 0), (4, -123, 0)]


async def test_a_slow_drift_is_followed() -> None:
    made, sent = reporter("heartbeat_s = 9", "deadband = 2")
    for n in range(7):
        made.good(0, n, 0, n * US)
    assert sent() == [(0, 0, 0), (2, 2, 0), (3, 3, 0), (5, 5, 0), (6, 6, 0)]


async def test_the_heartbeat_tells_the_present_value_within_the_deadband() -> None:
    made, sent = reporter("heartbeat_s = 3", "deadband = 2")
    for n, value in enumerate((10, 11, 11, 9, 11, 12)):
        made.good(0, value, 0, n * US)
    # From then on 9 is what is compared with.
    assert sent() == [(0, 10, 0), (3, 9, 0), (4, 11, 0), (5, 12, 0)]


async def test_a_change_of_quality_within_the_deadband_is_a_change() -> None:
    made, sent = reporter("heartbeat_s = 9", "deadband = 2")
    made.good(0, 5, 0, 0)
    made.good(0, 6, Quality.UNCERTAIN, US)
    assert sent() == [(0, 5, 0), (1, 6, Quality.UNCERTAIN)]


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=40),
    st.integers(1, 20),
    st.integers(1, 9),
    st.booleans(),
)
def test_what_is_sent_tells_every_poll_within_the_deadband(
    values: list[int], deadband: int, heartbeat_s: int, percent: bool
) -> None:
    async def run() -> list[Sent]:
        key = "deadband_percent" if percent else "deadband"
        made, sent = reporter(f"heartbeat_s = {heartbeat_s}", f"{key} = {deadband}")
        for n, value in enumerate(values):
            made.good(0, value, 0, n * US)
        return sent()

    sent = asyncio.run(run())
    assert [reading[0] for reading in sent] == sorted({reading[0] for reading in sent})
    told = {reading[0]: int(str(reading[1])) for reading in sent}
    reference = told[0]
    since = 0
    for n, value in enumerate(values):
        allowed = abs(reference) * deadband / 100 if percent else deadband
        if n in told:
            assert told[n] == value
            # What went out only because a step followed does not move the reference.
            if n == 0 or abs(value - reference) > allowed or n - since >= heartbeat_s:
                if n - since > 1 and abs(value - reference) > allowed:
                    assert n - 1 in told
                reference, since = value, n
        else:
            assert abs(value - reference) <= allowed
            assert n - since < heartbeat_s


async def test_before_the_clock_is_set_what_was_not_sent_goes_out_and_the_next_poll_is_sent() -> None:
    made, sent = reporter("heartbeat_s = 9")
    for n in (100, 101, 102):
        made.good(0, 5, 0, n * US)
    made.restart()
    made.good(0, 5, 0, 40 * US)
    made.good(0, 5, 0, 41 * US)
    assert sent() == [(100, 5, 0), (102, 5, 0), (40, 5, 0)]


async def test_while_readings_wait_for_the_clock_they_have_the_time_of_the_poll() -> None:
    wall = Wall(disciplined=False)
    clock = Clock(REAL_TIME, simulated=False, hold_s=60, wall_ns=wall.ns, disciplined=wall.is_disciplined)
    made, sent = reporter("", clock=clock)
    made.good(0, 5, 0, 100 * US, stamp_us=97 * US)
    wall.disciplined = True
    clock.look(None, made.batcher.flush)
    made.good(0, 6, 0, 110 * US, stamp_us=107 * US)
    assert sent() == [(100, 5, 0), (107, 6, 0)]
