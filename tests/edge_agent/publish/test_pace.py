"""The law by which the backlog is drained, against a simulated store: a queue, its speed, and its own delay."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import pytest

from edge_agent.publish.pace import LEAST_REFERENCE_S, Pace

STEP_S = 0.01


@dataclass
class Simulation:
    """An agent with a backlog and live messages before a store that takes them in order.

    Attributes
    ----------
    rate
        Messages that the store takes per second, as a function of time.
    delay_s
        From then until the agent hears of it.
    live_every_s
        Time between live messages; None: there are none.
    """

    pace: Pace
    rate: Callable[[float], float]
    delay_s: float
    backlog: int
    live_every_s: float | None = 0.1
    now: float = 0.0
    drained: int = 0
    live_latencies: list[tuple[float, float]] = field(default_factory=list)
    windows: list[tuple[float, int]] = field(default_factory=list)
    queue: deque[tuple[float, bool]] = field(default_factory=deque)
    heard: deque[tuple[float, float, bool]] = field(default_factory=deque)
    capacity: float = 0.0
    under_way: int = 0
    next_live: float = 0.0

    def run(self, until_s: float) -> None:
        queue, heard = self.queue, self.heard
        while self.now < until_s and self.drained < self.backlog:
            if self.live_every_s is not None and self.now >= self.next_live:
                queue.append((self.now, True))
                self.next_live += self.live_every_s
            while self.under_way < self.pace.window and self.under_way + self.drained < self.backlog:
                queue.append((self.now, False))
                self.under_way += 1
                self.pace.published(self.under_way, self.now)
            self.capacity = min(self.capacity + self.rate(self.now) * STEP_S, max(1.0, self.rate(self.now)))
            while self.capacity >= 1 and queue:
                self.capacity -= 1
                published_at, live = queue.popleft()
                heard.append((self.now + self.delay_s, published_at, live))
            while heard and heard[0][0] <= self.now:
                _, published_at, live = heard.popleft()
                if live:
                    self.live_latencies.append((published_at, self.now - published_at))
                else:
                    self.under_way -= 1
                    self.drained += 1
                self.pace.committed(published_at, self.now)
            self.windows.append((self.now, self.pace.window))
            self.now += STEP_S

    def live(self, from_s: float, until_s: float) -> list[float]:
        return [latency for at, latency in self.live_latencies if from_s <= at < until_s]


@pytest.mark.parametrize("rate", [20.0, 200.0, 2000.0])
@pytest.mark.parametrize("delay_s", [0.02, 0.2, 1.0])
def test_live_messages_hardly_wait_for_a_backlog_and_the_store_is_kept_busy(rate: float, delay_s: float) -> None:
    made = Simulation(Pace(1500), lambda _: rate, delay_s, backlog=int(60 * rate))
    made.run(300)
    assert made.drained == made.backlog
    # What the store can take in the time it took, less the live messages.
    assert made.drained > 0.6 * made.now * (rate - 10)
    settled = made.live(20, made.now)
    assert median(settled) < 1.6 * max(LEAST_REFERENCE_S, 1.5 * delay_s)
    assert max(settled) < 3 * max(LEAST_REFERENCE_S, 1.5 * delay_s)


def test_a_window_that_does_not_adapt_makes_live_messages_wait() -> None:
    # The counter-example: without the law the simulated store lets live readings wait for seconds.
    class Fixed(Pace):
        def committed(self, published_at: float, now: float) -> None:
            self.window = 1500

    made = Simulation(Fixed(1500), lambda _: 200.0, 0.1, backlog=6000)
    made.run(300)
    assert median(made.live(5, 25)) > 5


def test_it_backs_off_when_the_store_slows_down_and_comes_back() -> None:
    made = Simulation(Pace(1500), lambda now: 100.0 if 40 <= now < 120 else 1000.0, 0.05, backlog=200_000)
    made.run(200)
    busy, slow, again = (
        median(window for at, window in made.windows if low <= at < high)
        for low, high in ((20, 40), (60, 120), (150, 200))
    )
    assert slow < busy / 3
    assert again > 0.6 * busy
    assert median(made.live(60, 120)) < 2 * LEAST_REFERENCE_S
    assert made.drained > 0.6 * (80 * 990 + 80 * 90)


def test_it_drains_without_live_messages_too() -> None:
    made = Simulation(Pace(1500), lambda _: 500.0, 0.1, backlog=20_000, live_every_s=None)
    made.run(300)
    assert made.drained == 20_000
    assert made.now < 80


def test_a_store_that_is_slow_by_nature_is_not_taken_for_one_that_is_overloaded() -> None:
    made = Simulation(Pace(1500), lambda _: 200.0, 5.0, backlog=20_000)
    made.run(400)
    assert made.drained > 0.5 * 200 * made.now


def test_a_path_that_becomes_slow_is_learned_anew() -> None:
    pace = Pace(1500)
    made = Simulation(pace, lambda _: 500.0, 0.05, backlog=1_000_000)
    made.run(30)
    before = made.drained
    made.delay_s = 4.0
    made.run(250)
    assert pace.reference_s >= 4
    assert made.drained - before > 0.3 * 500 * 220


def test_the_backlog_never_stands_still_even_where_live_messages_fill_the_store() -> None:
    made = Simulation(Pace(1500), lambda _: 100.0, 0.05, backlog=100_000, live_every_s=1 / 95)
    marks = []
    for until in range(20, 120, 20):
        made.run(until)
        marks.append(made.drained)
    assert all(late > early for early, late in itertools.pairwise(marks))


def test_a_window_that_is_not_used_does_not_grow() -> None:
    pace = Pace(1500)
    before = pace.window
    for n in range(1000):
        pace.committed(n * 0.1, n * 0.1 + 0.05)
    assert pace.window == before


def feed(pace: Pace, latency_s: float, at: float, rounds: int = 1) -> None:
    """Whole rounds in which the window is used and each message takes as long."""
    for n in range(rounds):
        for under_way in range(1, pace.window + 1):
            pace.published(under_way, at + n)
        for _ in range(pace.window):
            pace.committed(at + n, at + n + latency_s)


def test_the_step_doubles_until_the_latency_is_too_long_and_then_the_window_shrinks_by_as_much() -> None:
    pace = Pace(1500)
    windows = []
    for n in range(5):
        windows.append(pace.window)
        feed(pace, 0.1, 10.0 * n)
    assert windows == [4, 8, 16, 32, 64]
    feed(pace, 2 * LEAST_REFERENCE_S, 100)
    assert pace.window == 64
    feed(pace, 0.1, 200)
    assert pace.window == 67


def test_what_was_published_before_a_decision_does_not_decide_again() -> None:
    pace = Pace(1500)
    feed(pace, 0.1, 0.0, rounds=5)
    assert pace.window == 128
    for _ in range(16):
        pace.committed(9.0, 10.0)
    assert pace.window == 64
    # The queue that was there is still being worked off.
    for _ in range(500):
        pace.committed(9.5, 11.0)
        pace.committed(10.5, 12.0)
    assert pace.window == 64
    # Now the backlog has come down to the window, and what it publishes shows the new state.
    pace.published(64, 12.0)
    for _ in range(16):
        pace.committed(12.0, 14.0)
    assert pace.window == 19


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 100])
def test_it_stays_within_its_limit(limit: int) -> None:
    pace = Pace(limit)
    seen = set()
    for n in range(100):
        feed(pace, 0.1 if n % 10 < 7 else 30, 100.0 * n)
        seen.add(pace.window)
    assert min(seen) == min(4, limit)
    assert max(seen) == limit


def test_a_new_connection_begins_with_little() -> None:
    pace = Pace(1500)
    feed(pace, 0.1, 0.0, rounds=8)
    assert pace.window > 100
    pace.restart(200)
    assert pace.window == 4
    assert pace.base_s is None
