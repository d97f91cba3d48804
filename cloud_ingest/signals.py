"""Counters of everything that is stored, dropped, parked or refused, each with its reason.

Invariants

- Whatever does not go the normal way is counted here and logged, with a reason.
- A counter only grows within a process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_log = logging.getLogger("cloud_ingest")

COUNTERS = {
    "readings_stored": "Readings copied into the database.",
    "batches": "Messages through agents' buffers, by what the ledger said.",
    "messages": "Messages taken from the broker, by channel.",
    "redelivered": "Messages that the broker had sent before and marks so.",
    "flushes": "Transactions committed by ingest.",
    "retries": "Transactions tried again, by cause.",
    "parked": "Batches parked because their schema is unknown.",
    "replayed": "Parked batches stored after their schema came.",
    "dead_letters": "Messages that can't be stored, by kind.",
    "quarantined": "Readings with times that can't be, by reason.",
    "gaps": "Gap records stored, by reason.",
    "schemas": "Schemas registered.",
    "dropped_messages": "Messages let go without acknowledgement, by reason; they come again.",
    "acks_skipped": "Acknowledgements not sent because the connection was another one; the messages come again.",
    "connections": "Connections made, by service.",
    "disconnections": "Connections lost, by service.",
    "announcements": "Committed messages, by whether they went out.",
    "sessions": "Session records, by state.",
}
"""Every counter with its meaning."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure.

    Attributes
    ----------
    name
        One of `COUNTERS`, or of a gauge.
    help
        Its meaning.
    kind
        "counter" or "gauge".
    label
        The reason, kind or outcome counted; "" if there is only one.
    value
        The figure.
    """

    name: str
    help: str
    kind: str
    label: str
    value: float


class Signals:
    """Counters and gauges of one process; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def count(self, name: str, label: str = "", n: int = 1) -> None:
        """Add `n` to a counter."""
        if name not in COUNTERS:
            raise KeyError(f"counter {name!r} is not described in COUNTERS")
        with self._lock:
            key = (name, label)
            self._counts[key] = self._counts.get(key, 0) + n

    def warn(self, name: str, label: str, message: str, n: int = 1, **fields: Any) -> None:
        """Count something that should not be, and log it with its reason and `fields`."""
        self.count(name, label, n)
        shown = "".join(f" {key}={value}" for key, value in fields.items())
        extra = {"counter": name, "label": label, "count": n, **fields}
        _log.warning("%s [%s] %d: %s%s", name, label, n, message, shown, extra=extra)

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Offer a figure that is read when asked for."""
        with self._lock:
            self._gauges[name] = (meaning, read)

    def value(self, name: str, label: str | None = None) -> int:
        """A counter's value; over all labels if none is given."""
        with self._lock:
            return sum(n for (counter, found), n in self._counts.items() if counter == name and label in (None, found))

    def snapshot(self) -> list[Sample]:
        """All figures now, by name and label."""
        with self._lock:
            counts = sorted(self._counts.items())
            gauges = sorted(self._gauges.items())
        samples = [Sample(name, COUNTERS[name], "counter", label, n) for (name, label), n in counts]
        samples += [Sample(name, meaning, "gauge", "", read()) for name, (meaning, read) in gauges]
        return samples
