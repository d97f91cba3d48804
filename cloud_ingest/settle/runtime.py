"""Settle as a thread: rounds until told to stop, through restarts of the database.

Invariants

- A failed round is rolled back as a whole, logged, and tried again after a pause that doubles up to
  `MAX_PAUSE_S`; nothing ends the thread but `stop`.
- After a failure the connection is made anew, and what was remembered of the database is read again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields

import psycopg

from cloud_ingest.settle import rounds
from cloud_ingest.settle.config import SettleConfig
from cloud_ingest.settle.plants import Source
from cloud_ingest.settle.rounds import Rounds, Totals
from cloud_ingest.signals import Signals
from cloud_ingest.store import pool
from cloud_ingest.store.pool import DEFAULT_LIMITS, Connection, Limits

_log = logging.getLogger(__name__)
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
REFRESH_S = 5.0
"""Real time between two looks at the points' parameters [s]."""

_MEANINGS = {
    "rounds": "Rounds of settle committed.",
    "changes": "Rows of the change feed settled.",
    "readings": "Readings fetched by settle.",
    "intervals": "Base intervals that settle wrote or changed.",
    "accounts_added": "Accounts that settle added.",
    "accounts_updated": "Accounts not yet final that settle updated in place.",
    "accounts_revised": "New revisions of final accounts.",
    "accounts_withdrawn": "Accounts that a new plant model no longer has.",
    "retries": "Rounds of settle that failed and were tried again.",
    "seconds": "Time that settle has spent in rounds [s].",
}


class Settler:
    """Keeps the accounts of some plants up to date with the readings.

    Parameters
    ----------
    dsn
        The database.
    config
        See `SettleConfig`.
    sources
        Plant models, from `cloud_ingest.settle.plants.read`.
    signals
        Where the totals are offered.
    limits
        Timeouts on the connection.
    """

    def __init__(
        self,
        dsn: str,
        config: SettleConfig,
        sources: Sequence[Source],
        signals: Signals,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._dsn = dsn
        self._config = config
        self._sources = sources
        self._limits = limits
        self._rounds = Rounds(sources, config)
        self._pause_s = FIRST_PAUSE_S
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="settle", daemon=True)
        for item in fields(Totals):
            signals.gauge(f"settle_{item.name}", _MEANINGS[item.name], self._reader(item.name))

    @property
    def ready(self) -> bool:
        """Whether the kernels are compiled and the plant models are registered."""
        return self._ready.is_set()

    @property
    def totals(self) -> Totals:
        """What has been done since the start."""
        return self._rounds.totals

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Let the round that runs end, and stop; once the change feed is settled nothing is waiting."""
        self._stop.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.error("settle did not stop within %g s", timeout_s)

    def _reader(self, name: str) -> Callable[[], float]:
        return lambda: float(getattr(self._rounds.totals, name))

    def _run(self) -> None:
        began = time.monotonic()
        rounds.warm_up(self._sources)
        _log.info("kernels ready after %.1f s", time.monotonic() - began)
        while not self._stop.is_set():
            try:
                with pool.connect(self._dsn, "cloud-ingest settle", self._limits, autocommit=True) as conn:
                    self._rounds.prepare(conn)
                    self._ready.set()
                    self._follow(conn)
            except Exception as error:  # noqa: BLE001 - whatever it was, accounts must go on once it is over
                self._rounds.totals.retries += 1
                known = isinstance(error, psycopg.OperationalError)
                _log.warning(
                    "settle failed, again in %g s: %s", self._pause_s, error, exc_info=None if known else error
                )
                self._stop.wait(self._pause_s)
                self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def _follow(self, conn: Connection) -> None:
        refreshed = time.monotonic()
        while not self._stop.is_set():
            began = time.monotonic()
            more = self._rounds.run(conn)
            self._pause_s = FIRST_PAUSE_S
            self._rounds.totals.seconds += time.monotonic() - began
            if not more:
                self._stop.wait(self._config.poll_interval_s)
            if time.monotonic() - refreshed > REFRESH_S:
                self._rounds.refresh(conn)
                refreshed = time.monotonic()
