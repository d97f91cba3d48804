"""The status message: the same figures as in the metrics, for those who only have the broker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from edge_agent import SOFTWARE
from edge_agent.buffer.records import Stats
from edge_agent.clock import Clock
from edge_agent.config import Agent
from edge_agent.operation.metrics import oldest_age_s
from edge_agent.polling.crew import Crew
from edge_agent.signals import Signals
from protocols.status import BufferStatus, Status

_log = logging.getLogger(__name__)


def status(agent: Agent, signals: Signals, crew: Crew, clock: Clock, stats: Stats | None, uptime_s: float) -> Status:
    """How the agent is now.

    Parameters
    ----------
    agent
        Who it is.
    signals, crew, clock
        What is counted where.
    stats
        What the buffer holds; None if it did not answer in time.
    uptime_s
        Since the process started [s].
    """
    bad = crew.bad_points()
    latency = signals.commit_latency
    return Status(
        agent.tenant,
        agent.name,
        time.time_ns() // 1000,
        SOFTWARE,
        int(uptime_s),
        clock.state().synchronised,
        None
        if stats is None
        else BufferStatus(stats.records_pending, stats.bytes_used, int(oldest_age_s(stats, clock.now_us()))),
        sum(count == 0 for count in bad.values()),
        sum(count > 0 for count in bad.values()),
        signals.overruns,
        signals.reconnects,
        round(1000 * latency.last_s) if latency.cumulative()[-1] else None,
    )


async def report(interval_s: float, make: Callable[[], Awaitable[Status]], tell: Callable[[bytes], None]) -> None:
    """Tell the status again and again, until this is cancelled; with an interval of 0 never."""
    while interval_s > 0:
        await asyncio.sleep(interval_s)
        try:
            tell((await make()).encode())
        except Exception:  # noqa: BLE001 (a mistake in the status must not reach the agent)
            _log.exception("the status could not be told")
