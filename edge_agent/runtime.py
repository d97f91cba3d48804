"""One run of the agent: puts the parts together, and takes them apart in an order that loses nothing.

At the end polling stops first, then the last batch goes to the disk, then the publisher goes on until the
store has everything or the time is up. What is still pending waits in the buffer for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from edge_agent import SOFTWARE
from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Stats
from edge_agent.clock import Clock
from edge_agent.errors import EdgeError
from edge_agent.operation import memory
from edge_agent.operation.commits import Commits
from edge_agent.operation.http import Responder
from edge_agent.operation.metrics import exposition, families
from edge_agent.operation.notify import Notifier
from edge_agent.operation.status import report
from edge_agent.operation.status import status as make_status
from edge_agent.operation.waiting import Waiting
from edge_agent.points import Plan
from edge_agent.polling.crew import Crew
from edge_agent.publish.publisher import Publisher
from edge_agent.signals import Signals
from protocols.config import ConfigError
from protocols.errors import ProtocolError
from protocols.status import Status

_log = logging.getLogger(__name__)
_CHECK_S = 0.2
_STATS_S = 4.0
_FIXED = ("agent", "clock", "buffer", "mqtt", "metrics")
"""What can't be changed while the agent runs."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run goes.

    Attributes
    ----------
    drain_s
        How long it waits at the end until the store has everything [s].
    report
        File for its totals.
    load
        Loads the configuration again when SIGHUP says so; None: it can't be.
    """

    drain_s: float = 20.0
    report: Path | None = None
    load: Callable[[], Plan] | None = None


def run(plan: Plan, options: RunOptions) -> int:
    """Run until a signal says stop; returns the exit code."""
    memory.return_large_blocks()
    return asyncio.run(_Run(plan, options).run())


class _Run:
    def __init__(self, plan: Plan, options: RunOptions) -> None:
        self._plan = plan
        self._options = options
        self._signals = Signals()
        self._notifier = Notifier(os.environ)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload = asyncio.Event()
        self._started = time.monotonic()

    async def run(self) -> int:
        # Before anything else: a stop that comes while the buffer is opened waits until it can be done in order.
        with _on_signals({signal.SIGTERM: self._signalled, signal.SIGINT: self._signalled, **self._hangup()}):
            return await self._run()

    async def _run(self) -> int:
        config = self._plan.config
        time_base = config.clock.time_base(time.time_ns() // 1000)
        clock = Clock(time_base, config.clock.simulated, config.buffer.hold_unsynchronised_s)
        agent = config.agent
        try:
            outbox = Outbox(
                config.buffer,
                agent.tenant,
                agent.name,
                self._plan.schema,
                clock.now_us,
                self._signals,
                holding=clock.holding,
            )
        except (EdgeError, OSError, sqlite3.Error) as error:
            _log.error("%s", error)
            return 1
        try:
            publisher = Publisher(config.mqtt, agent.tenant, agent.name, outbox, self._signals, SOFTWARE)
            publisher.start()
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

    def _hangup(self) -> dict[signal.Signals, Callable[[], None]]:
        return {signal.SIGHUP: self._reload.set} if self._options.load is not None else {}

    async def _poll_and_drain(self, clock: Clock, outbox: Outbox, publisher: Publisher) -> bool:
        config = self._plan.config
        commits = Commits(outbox.append)
        crew = Crew(self._plan, clock, commits, self._signals)
        memory.return_all()
        crew.start()

        async def page() -> str:
            return exposition(families(self._signals, crew, commits, await _stats(outbox), clock.now_us()))

        async def status() -> Status:
            uptime_s = time.monotonic() - self._started
            return make_status(config.agent, self._signals, crew, clock, await _stats(outbox), uptime_s)

        def trouble(limit_s: float) -> str | None:
            if commits.oldest_s() > limit_s:
                return f"a batch has waited for the disk for {commits.oldest_s():.0f} s"
            if found := publisher.trouble(limit_s):
                return found
            return next((found for line in crew.lines if (found := line.trouble(limit_s))), None)

        waiting = Waiting(clock, outbox)
        metrics = await self._serve_metrics(page)
        telling = asyncio.create_task(report(config.mqtt.status_interval_s, status, publisher.tell_status))
        self._notifier.ready()
        try:
            while not self._stop.is_set() and not (crew.failure or outbox.failure or publisher.failure):
                self._notifier.feed(trouble)
                waiting.look(publisher.connected_s, crew.close_books)
                if self._reload.is_set():
                    self._reload.clear()
                    crew = await self._reloaded(crew, clock, outbox, commits)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _CHECK_S)
            self._notifier.stopping()
            failure = await crew.stop() or outbox.failure or publisher.failure
        finally:
            telling.cancel()
            await metrics.stop()
        if failure is not None:
            _log.error("stopping because of a failure: %s", failure)
            return True
        if clock.holding:
            _log.warning("the clock is not synchronised: what waits for it stays in the buffer")
        else:
            await self._drain(outbox, publisher, lambda: waiting.look(publisher.connected_s, crew.close_books))
        return False

    async def _serve_metrics(self, page: Callable[[], Awaitable[str]]) -> Responder:
        responder = Responder("/metrics", page)
        settings = self._plan.config.metrics
        if settings is not None:
            try:
                await responder.start(settings.host, settings.port)
            except OSError as error:
                # Measuring matters more than being watched.
                _log.error("metrics can't be served on %s:%d: %s", settings.host, settings.port, error)
        return responder

    async def _reloaded(self, crew: Crew, clock: Clock, outbox: Outbox, commits: Commits) -> Crew:
        """The crew of the configuration as it is now in its file, or the old one if that can't be.

        The new crew is complete before the old one stops. What the old one has read is on disk, and the new
        birth too, before the new one starts.
        """
        self._notifier.reloading()
        try:
            plan = await self._changed_plan()
            new = Crew(plan, clock, commits, self._signals)
        except (ConfigError, EdgeError, OSError, ValueError) as error:
            _log.error("the configuration was not reloaded, the old one stays: %s", error)
            self._notifier.ready()
            return crew
        if await crew.stop() is not None:
            return crew
        try:
            if plan.schema.id() != self._plan.schema.id():
                await asyncio.wrap_future(outbox.adopt(plan.schema))
        except (EdgeError, ProtocolError) as error:
            _log.error("the configuration was not reloaded, the old one goes on: %s", error)
            new = Crew(self._plan, clock, commits, self._signals)
        else:
            self._plan = plan
            _log.info("the configuration was reloaded")
        memory.return_all()
        new.start()
        self._notifier.ready()
        return new

    async def _changed_plan(self) -> Plan:
        if self._options.load is None:
            raise EdgeError("there is no file to load it from")
        plan = await asyncio.to_thread(self._options.load)
        old, new = self._plan.config, plan.config
        fixed = [name for name in _FIXED if getattr(old, name) != getattr(new, name)]
        if fixed:
            raise EdgeError(f"{', '.join(f'[{name}]' for name in fixed)} changed; allowed: with a restart only")
        return plan

    async def _drain(self, outbox: Outbox, publisher: Publisher, look: Callable[[], None]) -> None:
        """Let the publisher go on until nothing is pending, or the time is up; what waited for the clock goes, too."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.drain_s
        pending = 1
        while pending and loop.time() < deadline and not self._hurry.is_set() and publisher.failure is None:
            look()
            pending = (await asyncio.wrap_future(outbox.stats())).records_pending
            if pending:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), _CHECK_S)
        if pending:
            _log.warning("%d records are not committed yet; they stay in the buffer", pending)

    def _report(self, stats: Stats) -> None:
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


async def _stats(outbox: Outbox) -> Stats | None:
    """What the buffer holds; None if it does not say so soon, or has failed."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(outbox.stats()), _STATS_S)
    except (TimeoutError, EdgeError) as error:
        _log.debug("the buffer did not answer: %r", error)
        return None


@contextlib.contextmanager
def _on_signals(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number, handle in handlers.items():
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
