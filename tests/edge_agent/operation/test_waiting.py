"""When the buffer is told to hold back, and to let go."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import cast

import pytest

from edge_agent.buffer import holding
from edge_agent.buffer.outbox import Outbox
from edge_agent.clock import Clock
from edge_agent.operation.waiting import Waiting
from edge_agent.publish.publisher import Publisher
from edge_agent.runtime import RunOptions, _Run
from edge_agent.signals import Signals
from protocols.timebase import REAL_TIME
from tests.support import edge
from tests.support.buffers import SCHEMA, numbered
from tests.support.wall import Wall


class Slow:
    """In place of an outbox: a release is done when the test says so."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.releases: list[Future[bool]] = []

    def hold(self) -> None:
        self.calls.append("hold")

    def release(self, _offset_us: int | None) -> Future[bool]:
        self.calls.append("release")
        self.releases.append(Future())
        return self.releases[-1]


def test_what_begins_to_wait_during_a_release_is_let_go_later() -> None:
    wall = Wall(disciplined=False)
    clock = Clock(REAL_TIME, simulated=False, hold_s=60, wall_ns=wall.ns, disciplined=wall.is_disciplined)
    outbox = Slow()
    waiting = Waiting(clock, cast("Outbox", outbox))
    for disciplined in (True, False):
        wall.disciplined = disciplined
        waiting.look(None, lambda: None)
    outbox.releases[0].set_result(False)
    wall.disciplined = True
    for _ in range(3):
        waiting.look(None, lambda: None)
    assert outbox.calls == ["release", "hold", "release"]


async def test_what_waited_is_still_let_go_while_the_agent_drains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "_ROWS", 2)
    plan = edge.plan(edge.head(tmp_path / "b.sqlite"), edge.modbus(502), edge.device("mill", edge.register("a", 1)))
    outbox = await asyncio.to_thread(
        Outbox, plan.config.buffer, "acme", "gw1", SCHEMA, lambda: 0, Signals(), holding=True
    )
    try:
        for number in range(10):
            await asyncio.wrap_future(outbox.append(numbered(number)))
        waiting = Waiting(Clock(REAL_TIME, simulated=False, disciplined=lambda: True), outbox)
        run = _Run(plan, RunOptions(drain_s=60))
        publisher = Publisher(plan.config.mqtt, "acme", "gw1", outbox, Signals(), "test")

        def look() -> None:
            waiting.look(None, lambda: None)
            if outbox._store.file.memory.held_from is None:
                # Nobody sends, so it would last to the end.
                run._hurry.set()

        await run._drain(outbox, publisher, look)
        assert run._hurry.is_set()
    finally:
        await asyncio.to_thread(outbox.close)
