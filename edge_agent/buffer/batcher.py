"""Collects readings in columns and closes batches, by count or by age.

Invariants

- A reading is in exactly one batch, in the order of its arrival.
- Nothing is made per reading but list entries.
- So many batches at most wait for the disk; beyond that pollers wait in `room`, and what they miss is counted
  as overruns. Memory stays bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from edge_agent.buffer.records import Draft
from edge_agent.clock import Clock
from edge_agent.config import Batching
from protocols.reading import Columns, Value, ValueType

MAX_WAITING = 32
"""Most batches that wait for the disk."""
_MAX_OFFSET_US = 180 * 86_400 * 1_000_000
"""Readings further apart than this go into batches of their own (a device's clock may be years off)."""


class _Group:
    """Readings of one value type."""

    __slots__ = ("offsets", "points", "qualities", "values")

    def __init__(self) -> None:
        self.points: list[int] = []
        self.offsets: list[int] = []
        self.values: list[Value] = []
        self.qualities: list[int] = []


class Batcher:
    """Collects readings; used from one event loop.

    Parameters
    ----------
    schema_id
        Schema of the points.
    settings
        When a batch is closed.
    clock
        Stamps batches.
    write
        Puts a batch in the buffer; its future is done when it is on disk.
    """

    def __init__(
        self, schema_id: str, settings: Batching, clock: Clock, write: Callable[[Draft], Future[None]]
    ) -> None:
        self._schema_id = schema_id
        self._settings = settings
        self._clock = clock
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._groups: dict[ValueType, _Group] = {}
        self._count = 0
        self._base_us = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._moved = asyncio.Event()
        self.failure: BaseException | None = None

    def extend(
        self, value_type: ValueType, points: Sequence[int], at_us: int, values: Sequence[Value], quality: int = 0
    ) -> None:
        """Add readings that were measured at one time [µs UTC] and have one quality."""
        size = len(points)
        if self._count and (
            self._count + size > self._settings.max_readings or abs(at_us - self._base_us) > _MAX_OFFSET_US
        ):
            self.flush()
        if not self._count:
            self._base_us = at_us
            self._timer = self._loop.call_later(self._settings.max_age_s, self.flush)
        group = self._groups.get(value_type)
        if group is None:
            group = self._groups[value_type] = _Group()
        group.points.extend(points)
        group.offsets.extend([at_us - self._base_us] * size)
        group.values.extend(values)
        group.qualities.extend([quality] * size)
        self._count += size
        if self._count >= self._settings.max_readings:
            self.flush()

    @property
    def holding(self) -> bool:
        """Whether batches wait until the clock is known; see `Clock`."""
        return self._clock.holding

    def flush(self) -> None:
        """Close the batch, if there is anything in it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._count:
            return
        columns = {
            value_type: Columns(group.points, group.offsets, group.values, group.qualities)
            for value_type, group in self._groups.items()
        }
        draft = Draft(self._schema_id, self._clock.now_us(), self._clock.state(), self._base_us, columns)
        self._groups = {}
        self._count = 0
        self._waiting += 1
        self._write(draft).add_done_callback(self._written)

    async def room(self) -> None:
        """Wait until the disk has taken enough for more readings to be collected."""
        while self._waiting >= MAX_WAITING:
            self._moved.clear()
            await self._moved.wait()

    async def drained(self) -> None:
        """Close the batch and wait until everything is on disk, or the buffer has failed."""
        self.flush()
        while self._waiting:
            self._moved.clear()
            await self._moved.wait()

    def _written(self, future: Future[None]) -> None:
        """Runs in the writer's thread."""
        self._loop.call_soon_threadsafe(self._settled, future.exception())

    def _settled(self, failure: BaseException | None) -> None:
        self._waiting -= 1
        self.failure = self.failure or failure
        self._moved.set()
