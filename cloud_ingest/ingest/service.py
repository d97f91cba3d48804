"""Ingest as a whole: subscriber, writers, announcer and replayer, started and drained together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from cloud_ingest.ingest.announce import Announcer
from cloud_ingest.ingest.config import IngestConfig, MqttConfig
from cloud_ingest.ingest.inbox import Inbox
from cloud_ingest.ingest.replay import Replayer
from cloud_ingest.ingest.subscriber import Subscriber
from cloud_ingest.ingest.write import Effects, Flush
from cloud_ingest.ingest.writer import Writer
from cloud_ingest.signals import Signals
from cloud_ingest.store import pool
from cloud_ingest.store.config import StoreConfig
from cloud_ingest.store.pool import Connection, Limits

_log = logging.getLogger(__name__)

INBOX_LIMIT = 5000
"""Most messages waiting where the broker's window does not bound them (MQTT 3.1.1)."""
DRAIN_S = 20.0
"""Longest time for writing what has been received, at the end [s]."""

END_S = 20.0
"""Longest time for the threads to end after that [s]."""


class Ingest:
    """Runs until told to stop; all waiting and writing happens in threads.

    Parameters
    ----------
    store, mqtt, config
        Sections of the configuration.
    signals
        Counters.
    """

    def __init__(self, store: StoreConfig, mqtt: MqttConfig, config: IngestConfig, signals: Signals) -> None:
        self._store = store
        self._config = config
        self._signals = signals
        window = mqtt.receive_maximum if mqtt.version == 5 else None
        self._inbox = Inbox(INBOX_LIMIT if window is None else window, window)
        self._subscriber = Subscriber(mqtt, self._inbox, signals)
        self._abandon = threading.Event()
        self.failed = threading.Event()
        """Set when a thread ended that should not have."""
        self._announcer = Announcer(
            lambda: self._connection("announcer"), self._subscriber.publish, config.announce_s, signals
        )
        self._replayer = Replayer(lambda: self._writing("replay"), config, signals, self._announcer.touch)
        self._writers = [
            Writer(self._writing_as(f"writer {n + 1}"), self._inbox, config, signals, self._committed, self._abandon)
            for n in range(config.writers)
        ]
        self._threads: dict[str, threading.Thread] = {}
        signals.gauge("inbox_waiting", "Messages received and not yet taken by a writer.", lambda: self._inbox.waiting)
        signals.gauge(
            "inbox_unacknowledged", "Messages received and not yet acknowledged.", lambda: self._inbox.unacknowledged
        )
        signals.gauge("broker_connected", "1 while the broker has accepted us.", lambda: self._subscriber.connected)

    def start(self) -> None:
        """Start the threads and connect."""
        for number, writer in enumerate(self._writers, 1):
            self._spawn(f"ingest-writer-{number}", writer.run)
        self._spawn("ingest-announcer", self._announcer.run)
        self._spawn("ingest-replay", self._replayer.run)
        self._subscriber.start()

    def stop(self) -> None:
        """Drain: take nothing more, write, acknowledge and announce what was received, disconnect."""
        self._inbox.close()
        self._replayer.stop()
        writers = [thread for name, thread in self._threads.items() if name.startswith("ingest-writer")]
        if not _joined(writers, DRAIN_S):
            _log.warning("messages are left unwritten: not acknowledged, so they come again")
            self._abandon.set()
            for writer in self._writers:
                writer.interrupt()
        self._announcer.stop()
        if not _joined(self._threads.values(), END_S):
            _log.error("a thread does not end; leaving it behind")
        self._subscriber.stop()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us."""
        return self._subscriber.connected

    def _committed(self, effects: Effects) -> None:
        self._announcer.heard(effects)
        if effects.births:
            self._replayer.wake()

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        def run() -> None:
            ended = False
            try:
                work()
                ended = True
            finally:
                if not ended:
                    self.failed.set()

        self._threads[name] = threading.Thread(target=run, name=name, daemon=True)
        self._threads[name].start()

    def _connection(self, name: str) -> Connection:
        limits = Limits(statement_s=self._store.statement_timeout_s)
        return pool.connect(self._store.connection_string(), f"cloud-ingest {name}", limits, autocommit=True)

    def _writing(self, name: str) -> tuple[Connection, Flush]:
        conn = self._connection(name)
        try:
            config = self._config
            return conn, Flush(conn, self._store.chunk_days, config.max_ahead_s, self._signals, config.registration)
        except BaseException:
            conn.close()
            raise

    def _writing_as(self, name: str) -> Callable[[], tuple[Connection, Flush]]:
        return lambda: self._writing(name)


def _joined(threads: Iterable[threading.Thread], timeout_s: float) -> bool:
    """Wait for threads to end; whether all have."""
    deadline = time.monotonic() + timeout_s
    ended = True
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
        ended &= not thread.is_alive()
    return ended
