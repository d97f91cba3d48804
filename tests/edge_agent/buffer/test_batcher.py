"""Batches are closed by count, by age and at the end; memory stays bounded."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from edge_agent.buffer import batcher as batchers
from edge_agent.buffer.batcher import Batcher
from edge_agent.buffer.records import Draft
from edge_agent.clock import Clock
from edge_agent.config import Batching
from protocols.reading import Columns
from protocols.timebase import REAL_TIME, US


class Disk:
    """Takes drafts, and is done with them when it is told."""

    def __init__(self, *, slow: bool = False) -> None:
        self.drafts: list[Draft] = []
        self.slow = slow
        self.waiting: list[Future[None]] = []

    def write(self, draft: Draft) -> Future[None]:
        self.drafts.append(draft)
        future: Future[None] = Future()
        self.waiting.append(future)
        if not self.slow:
            future.set_result(None)
        return future


def batcher(disk: Disk, max_readings: int = 10, max_age_s: float = 1000) -> Batcher:
    clock = Clock(REAL_TIME, simulated=True)
    return Batcher("a" * 64, Batching(max_readings=max_readings, max_age_s=max_age_s), clock, disk.write)


async def test_a_batch_is_closed_by_count_and_never_larger() -> None:
    disk = Disk()
    made = batcher(disk)
    for n in range(8):
        made.extend("float", (0, 1, 2), n, (1.0, 2.0, 3.0))
    await made.drained()
    sizes = [sum(map(len, draft.columns.values())) for draft in disk.drafts]
    assert sum(sizes) == 24
    assert sizes == [9, 9, 6]


async def test_a_batch_is_closed_by_age() -> None:
    disk = Disk()
    made = batcher(disk, max_age_s=0.05)
    made.extend("float", (0,), 0, (1.0,))
    assert not disk.drafts
    for _ in range(200):
        await asyncio.sleep(0.01)
        if disk.drafts:
            break
    assert len(disk.drafts) == 1


async def test_columns_are_grouped_by_type_with_offsets_from_the_first_reading() -> None:
    disk = Disk()
    made = batcher(disk)
    made.extend("float", (0, 1), 1000, (1.5, 2.5))
    made.extend("bool", (2,), 900, (True,), 66)
    made.extend("float", (0,), 2000, (None,), 130)
    await made.drained()
    draft = disk.drafts[0]
    assert draft.base_us == 1000
    assert draft.columns == {
        "float": Columns([0, 1, 0], [0, 0, 1000], [1.5, 2.5, None], [0, 0, 130]),
        "bool": Columns([2], [-100], [True], [66]),
    }


async def test_readings_years_apart_do_not_share_a_batch() -> None:
    disk = Disk()
    made = batcher(disk)
    now_us, year_2000_us = 1_655_136_000 * US, 946_684_800 * US
    made.extend("float", (0,), now_us, (1.0,))
    made.extend("float", (1,), year_2000_us, (1.0,))
    made.extend("float", (2,), now_us, (1.0,))
    await made.drained()
    assert [draft.base_us for draft in disk.drafts] == [now_us, year_2000_us, now_us]


async def test_pollers_wait_while_the_disk_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchers, "MAX_WAITING", 2)
    disk = Disk(slow=True)
    made = batcher(disk, max_readings=1)
    made.extend("float", (0,), 0, (1.0,))
    await asyncio.wait_for(made.room(), 10)
    made.extend("float", (0,), 0, (1.0,))
    blocked = asyncio.create_task(made.room())
    await asyncio.sleep(0.02)
    assert not blocked.done()
    disk.waiting[0].set_result(None)
    await asyncio.wait_for(blocked, 10)


async def test_a_failing_buffer_is_known() -> None:
    disk = Disk(slow=True)
    made = batcher(disk, max_readings=1)
    made.extend("float", (0,), 0, (1.0,))
    disk.waiting[0].set_exception(OSError("gone"))
    await asyncio.wait_for(made.drained(), 10)
    assert isinstance(made.failure, OSError)


async def test_an_empty_batch_is_not_written() -> None:
    disk = Disk()
    await batcher(disk).drained()
    assert not disk.drafts
