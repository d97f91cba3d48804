"""A gateway whose clock is set while it polls: nothing is lost, nothing changes places, wrong times are put right."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Kind, Record
from edge_agent.clock import Clock
from edge_agent.config import Buffer
from edge_agent.operation.waiting import Waiting
from edge_agent.polling.crew import Crew
from edge_agent.signals import Signals
from protocols.payload import registry
from protocols.quality import Quality
from protocols.timebase import REAL_TIME, US
from tests.support import edge
from tests.support.modbus_responder import Responder
from tests.support.wall import Wall

HOUR_US = 3600 * US


class Gateway:
    """An agent without a broker, that polls a register which counts its requests."""

    def __init__(self, outbox: Outbox, waiting: Waiting, crew: Crew, wall: Wall) -> None:
        self.outbox = outbox
        self.waiting = waiting
        self.crew = crew
        self.wall = wall
        self.records: list[Record] = []
        outbox.deliver_to(lambda _, records: self.records.extend(records))

    def look(self) -> None:
        """What the runtime does several times a second; there is no broker."""
        self.waiting.look(None, self.crew.close_books)

    async def polled(self, count: int) -> None:
        """Wait for so many more polls."""
        [line] = self.crew.lines
        goal = line.polls["m"] + count
        await until(lambda: line.polls["m"] >= goal, self.look)

    async def readings(self) -> list[tuple[float, int, int]]:
        """Stop, and read everything that can be handed out, in its order: value, time, quality."""
        await self.crew.stop()
        for _ in range(10):
            self.look()
            await asyncio.wrap_future(self.outbox.stats())
        await asyncio.wrap_future(self.outbox.restart(1))
        await asyncio.wrap_future(self.outbox.grant(1, 10_000, 10_000))
        await asyncio.wrap_future(self.outbox.stats())
        found = []
        for record in sorted(self.records, key=lambda record: record.id):
            if record.kind != Kind.DATA:
                continue
            batch = registry.codec(record.detail).decode(record.payload)
            for group in batch.columns.values():
                qualities = group.qualities or [0] * len(group)
                for offset_us, value, quality in zip(group.offsets_us, group.values, qualities, strict=True):
                    assert isinstance(value, int | float)
                    found.append((float(value), batch.base_us + offset_us, quality))
        return found


async def until(condition: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        meanwhile()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def gateway(path: Path, wall: Wall) -> AsyncIterator[Gateway]:
    number = itertools.count(1)
    async with Responder(lambda asked: asked.answer([next(number)])) as responder:
        device = edge.device("m", edge.register("a", 1), extra="poll_interval_s = 0.02")
        plan = edge.plan(edge.head(), edge.modbus(responder.port), device)
        clock = Clock(REAL_TIME, simulated=False, hold_s=60, wall_ns=wall.ns, disciplined=wall.is_disciplined)
        signals = Signals()
        outbox = await asyncio.to_thread(
            Outbox,
            Buffer(path=path / "buffer.sqlite"),
            "acme",
            "gw1",
            plan.schema,
            clock.now_us,
            signals,
            holding=clock.holding,
        )
        crew = Crew(plan, clock, outbox.append, signals)
        crew.start()
        try:
            yield Gateway(outbox, Waiting(clock, outbox), crew, wall)
        finally:
            await crew.stop()
            await asyncio.to_thread(outbox.close)


def assert_complete(readings: list[tuple[float, int, int]]) -> None:
    """Every poll is there, once, in its order."""
    assert [value for value, _, _ in readings] == [float(n + 1) for n in range(len(readings))]


async def test_a_gateway_that_starts_in_1970_has_its_readings_retimed(tmp_path: Path) -> None:
    wall = Wall(100 - time.time(), disciplined=False)
    async with gateway(tmp_path, wall) as found:
        began_us = time.time_ns() // 1000
        await found.polled(10)
        assert found.records == []
        wall.shift_us, wall.disciplined = 0, True
        await found.polled(10)
        readings = await found.readings()
    assert len(readings) >= 20
    assert_complete(readings)
    times = [at_us for _, at_us, _ in readings]
    assert times == sorted(times)
    assert began_us - 10 * US < times[0]
    assert times[-1] < time.time_ns() // 1000 + US
    # At no place is there a leap: the polls before and after the setting are one series.
    assert max(late - early for early, late in itertools.pairwise(times)) < 30 * US
    marks = [quality for _, _, quality in readings]
    assert marks == sorted(marks, reverse=True)
    assert {*marks} == {Quality.GOOD_RETIMED, Quality.GOOD}


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_leap_of_an_hour_neither_loses_nor_reorders_anything(tmp_path: Path, hours: int) -> None:
    wall = Wall()
    async with gateway(tmp_path, wall) as found:
        await found.polled(10)
        wall.shift_us = hours * HOUR_US
        await found.polled(10)
        wall.shift_us = 0
        await found.polled(10)
        readings = await found.readings()
    assert len(readings) >= 30
    assert_complete(readings)
    now_us = time.time_ns() // 1000
    places = [round((at_us - now_us) / HOUR_US) for _, at_us, _ in readings]
    # As the clock showed it then: before, during and after.
    assert [place for place, _ in itertools.groupby(places)] == [0, hours, 0]
    assert {quality for _, _, quality in readings} == {Quality.GOOD}


async def test_a_leap_while_the_clock_is_not_synchronised_is_put_right_with_the_rest(tmp_path: Path) -> None:
    wall = Wall(-3600.0, disciplined=False)
    async with gateway(tmp_path, wall) as found:
        await found.polled(5)
        wall.shift_us = HOUR_US
        await found.polled(5)
        wall.shift_us, wall.disciplined = 0, True
        await found.polled(5)
        readings = await found.readings()
    assert_complete(readings)
    times = [at_us for _, at_us, _ in readings]
    assert times == sorted(times)
    assert max(late - early for early, late in itertools.pairwise(times)) < 30 * US
