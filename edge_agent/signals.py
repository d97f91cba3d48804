"""What the agent counts about itself. Every drop is counted and logged here, with its reason.

Each counter is written by one thread only; readers may see it a moment late.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from edge_agent.operation.histogram import Histogram

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Signals:
    """Counters since the start of the process.

    Attributes
    ----------
    polls
        Poll cycles of a device or a group of nodes.
    overruns
        Poll times that passed without a poll, because an earlier one or the buffer took too long.
    requests
        Requests made to devices.
    failures
        Requests without a usable answer, by quality label.
    uncertain_times
        Readings whose time of measurement was too uncertain.
    bus_reconnects
        Connections to devices made after the first.
    bus_busy_s
        Time from requests to their answers or time-outs, by connection [s].
    committed_heard
        Messages by which the store said what it has.
    published
        Messages given to the broker.
    redelivered
        Those of them that had been given to it before.
    refused
        Messages that the broker refused, by its reason.
    reconnects
        Connections to the broker after the first.
    oversize
        Messages that were held back because the broker takes none of their size.
    mqtt_version
        Spoken on the present connection to the broker: 5, or 3 for 3.1.1; 0 while there is none.
    commit_latency
        Time from a message's first publication on a connection to the word that it is committed.
    backlog_window
        Most messages of the backlog that may be under way now.
    discarded
        Messages from the broker that made no sense.
    drops
        Records dropped from the buffer, by reason.
    dropped_readings
        Readings in them, by reason.
    stalls
        Times that the buffer could not be written and was tried again.
    """

    polls: int = 0
    overruns: int = 0
    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    uncertain_times: int = 0
    bus_reconnects: int = 0
    bus_busy_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    committed_heard: int = 0
    published: int = 0
    redelivered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    reconnects: int = 0
    oversize: int = 0
    mqtt_version: int = 0
    commit_latency: Histogram = field(default_factory=Histogram)
    backlog_window: int = 0
    discarded: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    dropped_readings: Counter[str] = field(default_factory=Counter)
    stalls: int = 0

    def dropped(self, reason: str, records: int, readings: int) -> None:
        """Count and log records that will never be delivered."""
        self.drops[reason] += records
        self.dropped_readings[reason] += readings
        _log.warning("dropped %d records with %d readings: %s", records, readings, reason)

    def refused_by_broker(self, reason: str) -> None:
        """Count a message that the broker refused; log the first of each reason."""
        self.refused[reason] += 1
        if self.refused[reason] == 1:
            _log.error("the broker refuses messages: %s; they stay in the buffer and are sent again later", reason)

    def held_back(self, what: str) -> None:
        """Count and log a message that the broker would never take."""
        self.oversize += 1
        _log.error("a message is held back: %s", what)

    def discarded_message(self, reason: str) -> None:
        """Count and log a message from the broker that made no sense."""
        self.discarded += 1
        _log.warning("discarded a message from the broker: %s", reason)
