"""When each turn of a connection comes.

Invariants

- Poll times are whole multiples of the interval plus the phase, in plant time, so there is no drift and the
  times of all agents agree.
- Turns of one connection are served one after the other, the one that is due longest first.
- A poll time that passed because of others is not made up for: it counts as an overrun.
- When the clock is set, polling goes on at once, by the new time; what it leapt over is no overrun.
- A cancellation ends it, even one that a poll has swallowed.
"""

from __future__ import annotations

import asyncio
import heapq
import logging

from edge_agent.buffer.batcher import Batcher
from edge_agent.clock import Clock
from edge_agent.drivers.base import Driver
from edge_agent.points import Timing
from edge_agent.signals import Signals
from protocols.timebase import US

_log = logging.getLogger(__name__)
_LONGEST_SLEEP_S = 1.0
"""So that a clock that was set is noticed."""


def next_time_us(timing: Timing, after_us: int) -> int:
    """First poll time later than `after_us` [µs UTC]."""
    since = after_us - timing.phase_us
    return (since // timing.interval_us + 1) * timing.interval_us + timing.phase_us


async def serve(driver: Driver, clock: Clock, batcher: Batcher, signals: Signals) -> None:
    """Poll a connection's turns for ever."""
    turns = driver.turns
    now_us = clock.now_us()
    queue = [(next_time_us(turn.timing, now_us), index) for index, turn in enumerate(turns)]
    heapq.heapify(queue)
    steps = clock.steps
    while queue:
        due_us, index = queue[0]
        timing = turns[index].timing
        now_us = clock.now_us()
        if steps != clock.steps:
            steps = clock.steps
            queue = [(next_time_us(turns[which].timing, now_us), which) for _, which in queue]
            heapq.heapify(queue)
            continue
        if due_us > now_us:
            wait_s = clock.timebase.real_seconds((due_us - now_us) / US)
            await asyncio.sleep(min(wait_s, _LONGEST_SLEEP_S))
            continue
        await batcher.room()
        if steps != clock.steps:
            continue
        # Waiting for room, or for turns before this one, may have taken whole intervals.
        missed = (clock.now_us() - due_us) // timing.interval_us
        signals.overruns += missed
        try:
            await driver.poll(index)
        except Exception:  # noqa: BLE001 (a mistake in one driver must not stop the polling of the others)
            _log.exception("connection %s: polling %s failed", driver.name, turns[index].name)
            signals.failures["internal"] += 1
        signals.polls += 1
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # Python 3.11's wait_for, which pymodbus uses, swallows a cancellation that comes with the answer.
            raise asyncio.CancelledError
        heapq.heapreplace(queue, (due_us + (missed + 1) * timing.interval_us, index))
