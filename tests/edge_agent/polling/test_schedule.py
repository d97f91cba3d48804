"""Poll times: whole multiples of the interval, no drift, overruns counted, clocks that are set."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.buffer.batcher import Batcher
from edge_agent.clock import Clock
from edge_agent.config import Batching
from edge_agent.drivers.base import Backoff, Turn, jittered
from edge_agent.points import Timing
from edge_agent.polling.schedule import next_time_us, serve
from edge_agent.signals import Signals
from protocols.timebase import REAL_TIME, US, TimeBase
from tests.support.wall import Wall


@given(st.integers(1, 10**10), st.integers(0, 10**10), st.integers(-(10**15), 10**15))
def test_poll_times_are_multiples_of_the_interval_plus_the_phase(interval: int, phase: int, now: int) -> None:
    timing = Timing(interval, phase % interval)
    found = next_time_us(timing, now)
    assert now < found <= now + interval
    assert (found - timing.phase_us) % interval == 0


class Slow:
    """A driver that notes when it was asked, and takes its time."""

    name = "slow"

    def __init__(self, turns: list[Turn], clock: Clock, takes_s: float = 0.0) -> None:
        self.turns = turns
        self.clock = clock
        self.takes_s = takes_s
        self.polled: list[tuple[int, int]] = []
        self.mistake = False

    async def poll(self, turn: int) -> None:
        self.polled.append((turn, self.clock.now_us()))
        if self.mistake:
            raise ZeroDivisionError
        await asyncio.sleep(self.takes_s)

    async def close(self) -> None:
        pass


async def run_until(driver: Slow, clock: Clock, signals: Signals, done: Callable[[], bool]) -> None:
    batcher = Batcher("a" * 64, Batching(), clock, lambda _: Future())
    task = asyncio.create_task(serve(driver, clock, batcher, signals))
    deadline = time.monotonic() + 60
    while not done() and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done()


async def test_turns_keep_their_own_intervals_without_drift() -> None:
    clock = Clock(TimeBase(0, time.time_ns() // 1000, 100.0), simulated=True)
    turns = [Turn("fast", Timing(2 * US, 0)), Turn("slow", Timing(10 * US, 3 * US))]
    driver = Slow(turns, clock)
    signals = Signals()
    await run_until(driver, clock, signals, lambda: len(driver.polled) > 200)
    polls = {which: [at for turn, at in driver.polled if turn == which] for which in (0, 1)}
    for which, turn in enumerate(turns):
        # Each poll belongs to another poll time, and none is lost but as a counted overrun.
        ticks = [(at - turn.timing.phase_us) // turn.timing.interval_us for at in polls[which]]
        assert len(set(ticks)) == len(ticks)
        # Late by the time it took to wake up, which does not add up.
        late = sorted((at - turn.timing.phase_us) % turn.timing.interval_us for at in polls[which][-8:])
        assert late[0] < turn.timing.interval_us / 2
    expected = sum((polls[which][-1] - polls[which][0]) // turn.timing.interval_us for which, turn in enumerate(turns))
    assert abs(len(driver.polled) - 2 + signals.overruns - expected) <= 2
    assert len(driver.polled) - 1 <= signals.polls <= len(driver.polled)


async def test_missed_poll_times_are_counted_and_not_made_up_for() -> None:
    clock = Clock(TimeBase(0, time.time_ns() // 1000, 1.0), simulated=True)
    driver = Slow([Turn("t", Timing(US // 50, 0))], clock, takes_s=0.11)
    signals = Signals()
    await run_until(driver, clock, signals, lambda: len(driver.polled) >= 6)
    assert signals.overruns >= 5 * (len(driver.polled) - 2)


@pytest.mark.parametrize("hours", [-1, 1])
async def test_polling_goes_on_at_once_when_the_clock_is_set(hours: int) -> None:
    wall = Wall()
    clock = Clock(REAL_TIME, simulated=False, wall_ns=wall.ns, disciplined=wall.is_disciplined)
    driver = Slow([Turn("t", Timing(US // 10, 0)), Turn("u", Timing(US // 5, 0))], clock)
    signals = Signals()
    set_at: list[int] = []

    def done() -> bool:
        if len(driver.polled) >= 4 and not set_at:
            set_at.append(len(driver.polled))
            wall.shift_us = hours * 3600 * US
            clock.look(None, lambda: None)
        return len(driver.polled) >= 12

    await run_until(driver, clock, signals, done)
    times = [at for _, at in driver.polled]
    before, after = times[set_at[0] - 1], times[set_at[0]]
    # Within one interval, in the new time; and what was leapt over was not missed.
    assert abs(after - before - hours * 3600 * US) < 30 * US
    assert signals.overruns < 1000


async def test_pollers_wait_for_room_and_count_what_they_miss() -> None:
    clock = Clock(TimeBase(0, time.time_ns() // 1000, 1.0), simulated=True)
    driver = Slow([Turn("t", Timing(US // 50, 0))], clock)
    signals = Signals()
    full = asyncio.Event()

    class Full(Batcher):
        async def room(self) -> None:
            await full.wait()

    batcher = Full("a" * 64, Batching(), clock, lambda _: Future())
    task = asyncio.create_task(serve(driver, clock, batcher, signals))
    await asyncio.sleep(0.3)
    assert not driver.polled
    full.set()
    while not driver.polled:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert signals.overruns >= 5


async def test_a_cancellation_that_a_poll_swallows_still_ends_the_polling() -> None:
    clock = Clock(TimeBase(0, time.time_ns() // 1000, 1.0), simulated=True)

    class Greedy(Slow):
        async def poll(self, turn: int) -> None:
            self.polled.append((turn, self.clock.now_us()))
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(10)

    driver = Greedy([Turn("t", Timing(US // 100, 0))], clock)
    batcher = Batcher("a" * 64, Batching(), clock, lambda _: Future())
    task = asyncio.create_task(serve(driver, clock, batcher, Signals()))
    while not driver.polled:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(task), 30)
    assert len(driver.polled) == 1


async def test_a_mistake_in_a_poll_is_logged_and_polling_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(TimeBase(0, time.time_ns() // 1000, 1.0), simulated=True)
    driver = Slow([Turn("t", Timing(US // 100, 0))], clock)
    driver.mistake = True
    signals = Signals()
    await run_until(driver, clock, signals, lambda: len(driver.polled) >= 3)
    assert signals.failures["internal"] >= 2
    assert "connection slow: polling t failed" in caplog.text


def test_delays_double_up_to_the_limit_and_are_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    backoff = Backoff(1.0, 5.0)
    assert backoff.due
    waits = []
    for _ in range(5):
        backoff.failed()
        waits.append(backoff.wait_s)
        now += backoff.wait_s
        assert backoff.due
    assert all(
        low <= wait <= high
        for wait, (low, high) in zip(waits, [(0.5, 1), (1, 2), (2, 4), (2.5, 5), (2.5, 5)], strict=True)
    )
    backoff.succeeded()
    assert backoff.due
    assert len({jittered(1.0) for _ in range(20)}) > 10
