"""Which readings are sent: transitions to bad, heartbeats, steps."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.buffer.batcher import Batcher
from edge_agent.clock import Clock
from edge_agent.config import Batching
from edge_agent.polling.reporter import Reporter
from protocols.quality import Quality
from protocols.timebase import REAL_TIME, US
from tests.support import edge
from tests.support.edge import Catcher

Sent = tuple[float, object, int]


def reporter(heartbeat: str) -> tuple[Reporter, Callable[[], list[Sent]]]:
    plan = edge.plan(edge.head(), edge.modbus(1), edge.device("m", edge.register("a", 1), extra=heartbeat))
    catcher = Catcher(plan.schema)
    batcher = Batcher(plan.schema.id(), Batching(), Clock(REAL_TIME, simulated=True), catcher.write)

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
