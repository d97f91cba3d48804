"""A Modbus driver on a test bench."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge_agent.buffer.batcher import Batcher
from edge_agent.clock import Clock
from edge_agent.drivers.modbus import ModbusDriver
from edge_agent.points import ModbusBus, Plan
from edge_agent.polling.reporter import Reporter
from edge_agent.signals import Signals
from protocols.timebase import REAL_TIME, TimeBase
from tests.support import edge
from tests.support.edge import Catcher, Seen


class Bench:
    """A driver with everything around it but the buffer."""

    def __init__(self, plan: Plan, timebase: TimeBase = REAL_TIME) -> None:
        bus = plan.buses[0]
        assert isinstance(bus, ModbusBus)
        self.signals = Signals()
        self.catcher = Catcher(plan.schema)
        clock = Clock(timebase, simulated=True)
        self.batcher = Batcher(plan.schema.id(), plan.config.batch, clock, self.catcher.write)
        self.driver = ModbusDriver(bus, plan.config.polling, clock, Reporter(plan.schema, self.batcher), self.signals)

    async def poll(self, turn: int = 0) -> list[Seen]:
        """Poll once; what came of it."""
        await self.driver.poll(turn)
        await self.batcher.drained()
        return self.catcher.take()

    async def values(self, turn: int = 0) -> dict[str, object]:
        """Poll once; values by name."""
        return {reading.name: reading.value for reading in await self.poll(turn)}

    async def qualities(self, turn: int = 0) -> dict[str, int]:
        """Poll once; qualities by name."""
        return {reading.name: reading.quality for reading in await self.poll(turn)}


@asynccontextmanager
async def bench(*parts: str, timebase: TimeBase = REAL_TIME) -> AsyncIterator[Bench]:
    """A driver for a configuration; its connection is closed at the end."""
    made = Bench(edge.plan(*parts), timebase)
    try:
        yield made
    finally:
        await made.driver.close()
