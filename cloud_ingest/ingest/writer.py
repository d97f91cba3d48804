"""A thread that takes messages, writes them in flushes, and only then lets them be acknowledged.

Invariants

- A message is handed back to the inbox as done only after its transaction committed.
- A message that the database can't take is found by halving the flush, and goes to the dead letters; its
  neighbours are stored.
- While the database is away nothing is acknowledged and nothing is dropped: the same flush is tried again.
"""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Callable, Sequence

import psycopg

from cloud_ingest.errors import StoreError
from cloud_ingest.ingest.config import IngestConfig
from cloud_ingest.ingest.decode import Dead, Parsed, parse
from cloud_ingest.ingest.inbox import Delivery, Inbox
from cloud_ingest.ingest.write import Effects, Flush
from cloud_ingest.signals import Signals
from cloud_ingest.store.pool import Connection
from protocols.reading import Batch

DATA_ERRORS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    struct.error,
)
"""Errors that lie in a message; all others lie in the database or the way to it."""
TRANSIENT_ERRORS = (psycopg.Error, StoreError, OSError)
LONGEST_BACKOFF_S = 5.0


class Backoff:
    """Growing, jittered waits, cut short when `stop` is set."""

    def __init__(self, stop: threading.Event, first_s: float = 0.1) -> None:
        self._stop = stop
        self._first_s = first_s
        self._next_s = first_s

    def wait(self) -> None:
        """Wait a little longer than the last time."""
        self._stop.wait(self._next_s * random.uniform(0.5, 1.0))  # noqa: S311 (no secret)
        self._next_s = min(self._next_s * 2, LONGEST_BACKOFF_S)

    def reset(self) -> None:
        """Begin with short waits again."""
        self._next_s = self._first_s


class Writer:
    """One writer.

    Parameters
    ----------
    connect
        Makes a connection in autocommit mode and what writes through it.
    inbox
        Where messages come from.
    config
        Flush sizes.
    signals
        Counters.
    committed
        Told the effects of each committed flush.
    abandon
        Set when a flush that can't be written shall be given up unacknowledged, at the end of draining.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[Connection, Flush]],
        inbox: Inbox,
        config: IngestConfig,
        signals: Signals,
        committed: Callable[[Effects], None],
        abandon: threading.Event,
    ) -> None:
        self._connect = connect
        self._inbox = inbox
        self._config = config
        self._signals = signals
        self._committed = committed
        self._abandon = abandon
        self._backoff = Backoff(abandon)
        self._connection: Connection | None = None
        self._flush: Flush | None = None

    def run(self) -> None:
        """Write until the inbox is closed and empty."""
        try:
            while not (self._inbox.closed and not self._inbox.waiting) and not self._abandon.is_set():
                deliveries, messages = self._gather()
                if messages and self._write(messages):
                    stale = self._inbox.done(deliveries)
                    if stale:
                        self._signals.count("acks_skipped", n=stale)
        finally:
            self._disconnect()

    def interrupt(self) -> None:
        """Cancel the statement that runs, from another thread."""
        connection = self._connection
        if connection is not None and not connection.closed:
            try:
                connection.cancel_safe(timeout=5.0)
            except psycopg.Error as error:
                self._signals.warn("retries", type(error).__name__, str(error).strip(), what="cancel")

    def _gather(self) -> tuple[list[Delivery], list[Parsed]]:
        """Take and decode messages until there are enough, they waited long enough, or no more can come."""
        deliveries: list[Delivery] = []
        messages: list[Parsed] = []
        readings = 0
        first = self._inbox.take(0.5)
        if first is None:
            return deliveries, messages
        deadline = time.monotonic() + self._config.flush_s
        delivery: Delivery | None = first
        while delivery is not None:
            message = parse(delivery.topic, delivery.payload)
            deliveries.append(delivery)
            messages.append(message)
            self._signals.count("messages", message.address.channel if message.address else "unknown")
            readings += len(message.content) if isinstance(message.content, Batch) else 1
            if readings >= self._config.flush_readings:
                break
            left = deadline - time.monotonic()
            delivery = None if self._inbox.exhausted else self._inbox.take(max(left, 0.0))
        return deliveries, messages

    def _write(self, messages: Sequence[Parsed]) -> bool:
        """Write messages however long it takes; False if it was given up."""
        while not self._abandon.is_set():
            try:
                self._write_parts(messages, retried=False)
            except TRANSIENT_ERRORS as error:
                self._signals.warn("retries", type(error).__name__, str(error).strip(), messages=len(messages))
                if self._connection is not None and self._connection.closed:
                    self._disconnect()
                self._backoff.wait()
            else:
                self._backoff.reset()
                return True
        return False

    def _write_parts(self, messages: Sequence[Parsed], *, retried: bool) -> None:
        flush = self._connected()
        try:
            effects = flush.store(messages)
        except DATA_ERRORS as error:
            if isinstance(error, psycopg.errors.CheckViolation) and not retried:
                # No partition for a row although one was known: somebody removed it.
                flush.partitions.forget()
                self._write_parts(messages, retried=True)
            elif len(messages) > 1:
                half = len(messages) // 2
                self._write_parts(messages[:half], retried=retried)
                self._write_parts(messages[half:], retried=retried)
            elif isinstance(messages[0].content, Dead):
                raise StoreError(f"a dead letter can't be stored: {error}") from error
            else:
                reason = f"{type(error).__name__}: {error}"
                self._write_parts([messages[0].killed("poison", reason)], retried=retried)
        else:
            self._committed(effects)

    def _connected(self) -> Flush:
        if self._flush is None:
            self._connection, self._flush = self._connect()
            self._signals.count("connections", "database")
        return self._flush

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._flush = None
            self._signals.count("disconnections", "database")
