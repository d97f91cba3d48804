"""``cloud-ingest run``: the chosen roles in one process, from start to drained end.

Invariants

- Nothing starts before the database is there and its tables are up to date; a database that is away is waited
  for, one that does not fit is a failure.
- At the end ingest drains first (what was received is stored, acknowledged and announced), then settle, then
  the API.
- A thread of ingest that ends unasked ends the process with a failure, so that a supervisor starts it again.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType

import psycopg

from cloud_ingest.config import Config
from cloud_ingest.errors import CloudError
from cloud_ingest.signals import Signals
from cloud_ingest.store import editions, migrate, partitions, pool
from cloud_ingest.store.config import StoreConfig
from cloud_ingest.store.pool import Limits

_log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 10.0


def run(config: Config) -> int:
    """Run until SIGTERM or SIGINT.

    Returns
    -------
    int
        Exit code: 0, or 1 after a failure.
    """
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        _log.info("%s: draining", signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        return _run(config, stop)
    except CloudError as error:
        _log.error("%s", error)
        return 1


def _run(config: Config, stop: threading.Event) -> int:
    if not prepare_database(config.store, stop):
        return 0
    signals = Signals()
    dsn = config.store.connection_string()
    limits = Limits(statement_s=config.store.statement_timeout_s)
    waiting: list[Callable[[], str]] = []
    failed: Callable[[], bool] = lambda: False  # noqa: E731
    with ExitStack() as running:
        if "api" in config.roles:
            from cloud_ingest.api.runtime import Server

            server = Server(config.api, dsn, signals, lambda: _unready(waiting))
            server.start()
            running.callback(server.stop)
        if "settle" in config.roles:
            from cloud_ingest.settle import plants
            from cloud_ingest.settle.runtime import Settler

            settler = Settler(dsn, config.settle, plants.read(config.settle.plant), signals, limits)
            waiting.append(lambda: "" if settler.ready else "settle compiles its kernels")
            settler.start()
            running.callback(settler.stop)
        if "ingest" in config.roles:
            from cloud_ingest.ingest.service import Ingest

            assert config.mqtt is not None
            ingest = Ingest(config.store, config.mqtt, config.ingest, signals)
            waiting.append(lambda: "" if ingest.connected else "ingest is not connected to the broker")
            failed = ingest.failed.is_set
            ingest.start()
            running.callback(ingest.stop)
        _log.info("running: %s", ", ".join(config.roles))
        while not stop.wait(0.2) and not failed():
            pass
        if failed():
            _log.error("a thread of ingest ended; see above")
    _log.info("stopped")
    return 1 if failed() else 0


def prepare_database(store: StoreConfig, stop: threading.Event) -> bool:
    """Wait for the database and bring it up to date, or check that it is.

    Returns
    -------
    bool
        False if told to stop in the meantime.

    Raises
    ------
    StoreError
        If it does not fit.
    """
    pause_s = FIRST_PAUSE_S
    while not stop.is_set():
        try:
            with pool.connect(store.connection_string(), "cloud-ingest start", autocommit=True) as conn:
                if store.migrate:
                    migrate.migrate(conn)
                    partitions.set_chunk_width(conn, store.chunk_days)
                else:
                    migrate.check(conn)
                _log.info("database: %s", editions.detect(conn).value)
        except psycopg.OperationalError as error:
            _log.warning("the database is not available, trying again in %.1f s: %s", pause_s, str(error).strip())
            stop.wait(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
        else:
            return True
    return False


def _unready(waiting: Sequence[Callable[[], str]]) -> list[str]:
    return [reason for ask in waiting if (reason := ask())]
