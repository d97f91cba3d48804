"""All that polls for one configuration: a line per connection, the reporter and the batcher behind them.

Invariants

- A crew starts once, and once stopped does not start again; stopping it twice does no harm.
- When it stops, polls under way may come to an end, and what was read is on disk before `stop` returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future

from edge_agent.buffer.batcher import Batcher
from edge_agent.buffer.records import Draft
from edge_agent.clock import Clock
from edge_agent.drivers.base import Driver
from edge_agent.drivers.modbus import ModbusDriver
from edge_agent.errors import EdgeError
from edge_agent.points import ModbusBus, OpcUaBus, Plan
from edge_agent.polling.line import Line
from edge_agent.polling.reporter import Reporter
from edge_agent.polling.schedule import serve
from edge_agent.signals import Signals

_log = logging.getLogger(__name__)
_STOP_S = 5.0
_CANCEL_AGAIN_S = 0.5


class Crew:
    """The pollers of a plan.

    Parameters
    ----------
    plan
        What to poll.
    clock
        Plant time.
    write
        Puts a batch in the buffer.
    signals
        Counters.
    """

    def __init__(self, plan: Plan, clock: Clock, write: Callable[[Draft], Future[None]], signals: Signals) -> None:
        self.plan = plan
        self.batcher = Batcher(plan.schema.id(), plan.config.batch, clock, write)
        self.reporter = Reporter(plan.schema, self.batcher)
        self._clock = clock
        self._signals = signals
        self.lines = [self._line(bus) for bus in plan.buses if bus.devices]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to poll."""
        self._tasks = [
            asyncio.create_task(serve(line, self._clock, self.batcher, self._signals), name=line.name)
            for line in self.lines
        ]
        _log.info("polling %d points over %d connections", len(self.plan.schema), len(self.lines))

    @property
    def failure(self) -> BaseException | None:
        """What makes it pointless to go on, if anything."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                return task.exception() or EdgeError(f"polling of {task.get_name()} has ended")
        return self.batcher.failure

    def bad_points(self) -> dict[str, int]:
        """How many points are bad now, for each device."""
        schema = self.plan.schema
        found = dict.fromkeys((member.device for member in schema.members), 0)
        for point in self.reporter.bad:
            found[schema.device_of(point)] += 1
        return found

    def close_books(self) -> None:
        """Close what belongs to the time before the clock is set."""
        self.reporter.restart()
        self.batcher.flush()

    async def stop(self) -> BaseException | None:
        """End polling, close the connections, and wait until what was read is on disk; returns what failed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(line.rest() for line in self.lines)), _STOP_S)
        while running := [task for task in self._tasks if not task.done()]:
            # Again and again: a cancellation that meets an answer can be lost in `asyncio.wait_for`.
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        failures = [result for result in ended if isinstance(result, Exception)]
        for failure in failures:
            _log.error("polling has failed", exc_info=failure)
        if self.lines:
            await asyncio.wait([asyncio.ensure_future(line.close()) for line in self.lines], timeout=_STOP_S)
        await self.batcher.drained()
        return next(iter(failures), None) or self.batcher.failure

    def _line(self, bus: ModbusBus | OpcUaBus) -> Line:
        points = {device.name: device.points for device in bus.devices}
        return Line(self._driver(bus), points, self._clock, self.reporter)

    def _driver(self, bus: ModbusBus | OpcUaBus) -> Driver:
        if isinstance(bus, ModbusBus):
            return ModbusDriver(bus, self.plan.config.polling, self._clock, self.reporter, self._signals)
        # Imported only where it is used: it takes a second and tens of megabytes.
        from edge_agent.drivers.opcua import OpcUaDriver

        return OpcUaDriver(bus, self._clock, self.reporter, self._signals)
