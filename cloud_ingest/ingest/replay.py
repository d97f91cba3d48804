"""Stores parked messages once their schema has come, and does the small regular duties of the store.

Invariants

- A parked message is stored exactly once, whoever replays it: it is removed in the transaction that stores it.
- A sweep finds what was parked while its birth was being stored by another worker.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from cloud_ingest.ingest.config import IngestConfig
from cloud_ingest.ingest.decode import Parsed, parse
from cloud_ingest.ingest.write import Flush
from cloud_ingest.ingest.writer import DATA_ERRORS, TRANSIENT_ERRORS
from cloud_ingest.signals import Signals
from cloud_ingest.store import feed, ledger, parking
from cloud_ingest.store.ledger import EpochKey
from cloud_ingest.store.parking import Parked
from cloud_ingest.store.pool import Connection

_log = logging.getLogger(__name__)

MESSAGES_A_TRANSACTION = 100
DUTIES_S = 600.0
"""Distance of making partitions ahead and of removing what is no longer needed [s]; less while much of it is left."""


class Replayer:
    """Replays from a thread of its own.

    Parameters
    ----------
    connect
        Makes a connection in autocommit mode and what writes through it.
    config
        Distances in time.
    signals
        Counters.
    touched
        Told the epochs of replayed messages.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[Connection, Flush]],
        config: IngestConfig,
        signals: Signals,
        touched: Callable[[Iterable[EpochKey]], None],
    ) -> None:
        self._connect = connect
        self._config = config
        self._signals = signals
        self._touched = touched
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._connection: Connection | None = None
        self._flush: Flush | None = None
        self._duties_at = 0.0
        self._ledger_after = 0

    def wake(self) -> None:
        """A schema came: look now."""
        self._wake.set()

    def stop(self) -> None:
        """Let `run` return after the transaction at hand."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Sweep until told to stop."""
        try:
            while not self._stop.is_set():
                try:
                    conn, flush = self._connected()
                    self.sweep(conn, flush)
                    if time.monotonic() >= self._duties_at:
                        more = self._duties(conn, flush)
                        self._duties_at = time.monotonic() + (0.0 if more else DUTIES_S)
                except TRANSIENT_ERRORS as error:
                    self._signals.warn("retries", type(error).__name__, str(error).strip(), what="replay")
                    if self._connection is not None and self._connection.closed:
                        self._disconnect()
                self._wake.wait(self._config.sweep_s)
                self._wake.clear()
        finally:
            self._disconnect()

    def sweep(self, conn: Connection, flush: Flush) -> int:
        """Replay everything that is due; how many messages this call stored."""
        after = total = 0
        while not self._stop.is_set():
            due = parking.due(conn, MESSAGES_A_TRANSACTION, after)
            if not due:
                break
            after = due[-1].batch_id
            total += self._replay(flush, [(parked, parse(parked.topic, parked.payload)) for parked in due])
        if total:
            _log.info("%d parked messages replayed", total, extra={"replayed": total})
        return total

    def _replay(self, flush: Flush, messages: Sequence[tuple[Parked, Parsed]]) -> int:
        try:
            epochs, count = flush.replay(messages)
        except DATA_ERRORS as error:
            if len(messages) > 1:
                half = len(messages) // 2
                return self._replay(flush, messages[:half]) + self._replay(flush, messages[half:])
            parked, message = messages[0]
            epochs, count = flush.replay([(parked, message.killed("poison", f"{type(error).__name__}: {error}"))])
        self._touched(epochs)
        return count

    def _duties(self, conn: Connection, flush: Flush) -> bool:
        """A bounded round; whether more can be removed at once."""
        flush.partitions.ensure_ahead(time.time_ns() // 1000)
        pruned, more = feed.prune(conn, self._config.feed_keep_s)
        if pruned:
            _log.info("%d rows of the change feed pruned", pruned, extra={"pruned": pruned})
        removed, self._ledger_after = ledger.remove_folded(conn, self._config.ledger_keep_s, self._ledger_after)
        if removed:
            _log.info("%d folded rows of the ledger removed", removed, extra={"removed": removed})
        return more or self._ledger_after > 0

    def _connected(self) -> tuple[Connection, Flush]:
        if self._connection is None or self._flush is None:
            self._connection, self._flush = self._connect()
        return self._connection, self._flush

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._flush = None
