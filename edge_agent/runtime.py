"""One run of the agent: puts the parts together, and takes them apart in an order that loses nothing.

At the end polling stops first, then the last batch goes to the disk, then the publisher goes on until the
store has everything or the time is up. What is still pending waits in the buffer for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from edge_agent import SOFTWARE
from edge_agent.buffer.batcher import Batcher
from edge_agent.buffer.outbox import Outbox
from edge_agent.clock import Clock
from edge_agent.drivers.base import Driver
from edge_agent.drivers.modbus import ModbusDriver
from edge_agent.errors import EdgeError
from edge_agent.points import ModbusBus, Plan
from edge_agent.polling.reporter import Reporter
from edge_agent.polling.schedule import serve
from edge_agent.publish.publisher import Publisher
from edge_agent.signals import Signals

_log = logging.getLogger(__name__)
_CHECK_S = 0.2
_STOP_POLLING_S = 5.0


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How long a run drains [s], and where its totals go."""

    drain_s: float = 20.0
    report: Path | None = None


def run(plan: Plan, options: RunOptions) -> int:
    """Run until a signal says stop; returns the exit code."""
    return asyncio.run(_Run(plan, options).run())


class _Run:
    def __init__(self, plan: Plan, options: RunOptions) -> None:
        self._plan = plan
        self._options = options
        self._signals = Signals()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        config = self._plan.config
        clock = Clock(config.clock.timebase(), config.clock.simulated)
        agent = config.agent
        try:
            outbox = Outbox(config.buffer, agent.tenant, agent.name, self._plan.schema, clock.now_us, self._signals)
        except (EdgeError, OSError, sqlite3.Error) as error:
            _log.error("%s", error)
            return 1
        try:
            publisher = Publisher(config.mqtt, agent.tenant, agent.name, outbox, self._signals, SOFTWARE)
            publisher.start()
            with _on_signals(self._signalled):
                failed = await self._poll_and_drain(clock, outbox, publisher)
            await asyncio.to_thread(publisher.stop)
            if outbox.failure is None:
                self._report(await asyncio.wrap_future(outbox.stats()))
        finally:
            await asyncio.to_thread(outbox.close)
        return 1 if failed else 0

    def _signalled(self) -> None:
        """The first signal drains, a second one ends the draining."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _poll_and_drain(self, clock: Clock, outbox: Outbox, publisher: Publisher) -> bool:
        batcher = Batcher(self._plan.schema.id(), self._plan.config.batch, clock, outbox.append)
        drivers = self._drivers(clock, Reporter(self._plan.schema, batcher))
        tasks = [
            asyncio.create_task(serve(driver, clock, batcher, self._signals), name=driver.name) for driver in drivers
        ]
        _log.info("polling %d points over %d connections", len(self._plan.schema.points), len(drivers))
        while not self._stop.is_set() and not _failure(batcher, outbox, publisher, tasks):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _CHECK_S)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for result in ended:
            if isinstance(result, Exception):
                _log.error("polling has failed", exc_info=result)
        await asyncio.wait([asyncio.ensure_future(driver.close()) for driver in drivers], timeout=_STOP_POLLING_S)
        await batcher.drained()
        failure = _failure(batcher, outbox, publisher, ()) or next(
            (result for result in ended if isinstance(result, Exception)), None
        )
        if failure is not None:
            _log.error("stopping because of a failure: %s", failure)
            return True
        await self._drain(outbox, publisher)
        return False

    async def _drain(self, outbox: Outbox, publisher: Publisher) -> None:
        """Let the publisher go on until nothing is pending, or the time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.drain_s
        pending = 1
        while pending and loop.time() < deadline and not self._hurry.is_set() and publisher.failure is None:
            pending = (await asyncio.wrap_future(outbox.stats())).records_pending
            if pending:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), _CHECK_S)
        if pending:
            _log.warning("%d records are not committed yet; they stay in the buffer", pending)

    def _drivers(self, clock: Clock, reporter: Reporter) -> list[Driver]:
        drivers: list[Driver] = []
        for bus in self._plan.buses:
            if not bus.devices:
                continue
            if isinstance(bus, ModbusBus):
                drivers.append(ModbusDriver(bus, self._plan.config.polling, clock, reporter, self._signals))
            else:
                # Imported only where it is used: it takes a second and tens of megabytes.
                from edge_agent.drivers.opcua import OpcUaDriver

                drivers.append(OpcUaDriver(bus, clock, reporter, self._signals))
        return drivers

    def _report(self, stats: Any) -> None:
        signals = self._signals
        totals = {
            "epochs": list(stats.epochs),
            "readings_appended": stats.readings_appended,
            "records_pending": stats.records_pending,
            "readings_pending": stats.readings_pending,
            "polls": signals.polls,
            "overruns": signals.overruns,
            "requests": signals.requests,
            "failures": dict(signals.failures),
            "uncertain_times": signals.uncertain_times,
            "published": signals.published,
            "redelivered": signals.redelivered,
            "reconnects": signals.reconnects,
            "bus_reconnects": signals.bus_reconnects,
            "dropped_readings": dict(signals.dropped_readings),
        }
        _log.info("%s", orjson.dumps(totals).decode())
        if self._options.report is not None:
            self._options.report.write_bytes(orjson.dumps(totals, option=orjson.OPT_INDENT_2) + b"\n")


def _failure(batcher: Batcher, outbox: Outbox, publisher: Publisher, tasks: Any) -> BaseException | None:
    """What makes it pointless to go on, if anything."""
    for task in tasks:
        if task.done() and not task.cancelled():
            return task.exception() or EdgeError(f"polling of {task.get_name()} has ended")
    return outbox.failure or batcher.failure or publisher.failure


@contextlib.contextmanager
def _on_signals(handle: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
