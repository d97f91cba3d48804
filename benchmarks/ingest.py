"""Messages into the database through the ledger, against a COPY of rows that were packed and sorted beforehand.

All go to the same kind of table on the same server in one run, in turns, and the median counts. Also what most
projects do instead: INSERT row by row with ON CONFLICT, and COPY to a temporary table with INSERT from there.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import orjson
from psycopg.sql import SQL

from benchmarks.results import Results, compared, median
from cloud_ingest.ingest.config import IngestConfig
from cloud_ingest.ingest.decode import parse
from cloud_ingest.ingest.write import Flush
from cloud_ingest.signals import Signals
from cloud_ingest.store import copy, pool
from cloud_ingest.store.copy import Rows
from cloud_ingest.store.editions import Edition, detect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.pool import Connection
from deploy.local.postgres import embedded_postgres
from protocols import topics
from protocols.birth import Birth, Point, Schema
from protocols.payload import registry
from protocols.reading import Batch, BatchKey, ClockState, Columns
from tests.support import services

T = TypeVar("T")
TENANT, AGENT = "bench", "gw1"
START_US = 1_655_136_000_000_000
"""2022-06-13 16:00 UTC [µs UTC]."""
SECOND_US = 1_000_000
WRITERS = (1, 2)
_CHUNK_DAYS = 7
_EMPTY = SQL("TRUNCATE reading_float, ledger, ledger_epoch, change_feed")
_COPY = SQL("COPY reading_float (at, value, batch_id, point_id, quality) FROM STDIN (FORMAT BINARY)")
_INSERT = SQL("INSERT INTO usual (at, point_id, value) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING")


@dataclass(frozen=True)
class Size:
    """How much is written: messages of `per_message` readings of `points` points, one of each a second.

    Attributes
    ----------
    repeats
        How often each way is measured.
    usual_messages
        Messages that the slow ways get.
    """

    points: int = 5000
    per_message: int = 500
    messages: int = 1200
    repeats: int = 5
    usual_messages: int = 80

    @property
    def readings(self) -> int:
        """All readings."""
        return self.messages * self.per_message


@dataclass(frozen=True)
class Load:
    """The same readings in both forms.

    Attributes
    ----------
    birth, payloads
        Messages as they come from the broker.
    flushes
        Which payloads a flush of the default size takes.
    """

    birth: Birth
    payloads: list[bytes]
    flushes: list[list[bytes]]


def run(directory: Path) -> Results:
    """Plain PostgreSQL, and TimescaleDB where it can be had."""
    size = Size()
    work = load(size)
    with embedded_postgres(directory / "postgres") as dsn:
        results = on_server(dsn, "postgresql", size, work)
    try:
        with services.timescale(directory) as dsn:
            results |= on_server(dsn, "timescaledb", size, work)
    except services.ServiceError as error:
        print(f"ingest: without TimescaleDB: {error}", file=sys.stderr)
    return results


def on_server(dsn: str, label: str, size: Size, work: Load) -> Results:
    """All ways on one server."""
    results: Results = {}
    with services.fresh_database(dsn) as database, _connected(database) as conn:
        migrate(conn)
        encoded = _encoded(work)
        ways: dict[str, Callable[[], float]] = {}
        for writers in WRITERS:
            ways[f"ledger {writers}"] = partial(_through_ledger, database, work, writers)
            ways[f"copy {writers}"] = partial(_raw_copy, database, encoded, writers)
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(size.repeats):
            for way, measure in ways.items():
                conn.execute(_EMPTY)
                rates[way].append(size.readings / measure())
        for writers in WRITERS:
            for against in WRITERS:
                results[f"ingest.{label}.writers_{writers}.to_copy_{against}"] = compared(
                    median(rates[f"ledger {writers}"]),
                    "readings/s",
                    median(rates[f"copy {against}"]),
                    f"packed sorted COPY, {against} connection{'s' * (against > 1)}",
                )
        one_writer = median(rates["ledger 1"])
        for name, usual in USUAL.items():
            _make_usual(conn)
            part = work.payloads[: size.usual_messages]
            begun = time.perf_counter()
            usual(conn, part)
            rate = len(part) * size.per_message / (time.perf_counter() - begun)
            results[f"ingest.{label}.{name}"] = compared(rate, "readings/s", one_writer, "ingest, one writer")
    return results


def load(size: Size) -> Load:
    """Make the messages of an agent that reads every point once a second."""
    schema = Schema(
        site="plant",
        points=tuple(
            Point(
                device=f"d{n // 50}",
                tag=f"t{n % 50}",
                quantity="active_power",
                unit="kW",
                kind="gauge",
                medium="electricity",
                value_type="float",
                poll_interval_s=1,
                gap_limit_s=60,
            )
            for n in range(size.points)
        ),
    )
    epoch = uuid.uuid4().hex
    random = np.random.default_rng(1)
    encode = registry.codec(registry.DEFAULT_CODEC).encode
    payloads = []
    per_second = size.points // size.per_message
    for n in range(size.messages):
        first = n % per_second * size.per_message
        columns = Columns(
            list(range(first, first + size.per_message)),
            random.integers(0, SECOND_US, size.per_message).tolist(),
            random.normal(100, 10, size.per_message).round(3).tolist(),
        )
        base_us = START_US + n // per_second * SECOND_US
        clock = ClockState(synchronised=True, boot_id="b", monotonic_us=n)
        key = BatchKey(TENANT, AGENT, epoch, n + 2)
        payloads.append(encode(Batch(key, schema.id(), base_us, clock, base_us, {"float": columns})))
    each = max(1, IngestConfig().flush_readings // size.per_message)
    flushes = [payloads[at : at + each] for at in range(0, len(payloads), each)]
    return Load(Birth(BatchKey(TENANT, AGENT, epoch, 1), START_US, schema), payloads, flushes)


def _through_ledger(dsn: str, work: Load, writers: int) -> float:
    """Real time that decoding and storing takes [s]; the points are registered beforehand."""
    topic = topics.data(TENANT, AGENT, registry.DEFAULT_CODEC)

    def writer(conn: Connection) -> Callable[[Sequence[bytes]], None]:
        flush = Flush(conn, _CHUNK_DAYS, IngestConfig().max_ahead_s, Signals())
        flush.store([parse(topics.birth(TENANT, AGENT, work.birth.schema.id()), work.birth.encode())])
        # Partitions are made ahead in a plant that runs.
        flush.partitions.ensure("float", [START_US])

        def store(payloads: Sequence[bytes]) -> None:
            flush.store([parse(topic, payload) for payload in payloads])

        return store

    return _by_threads(dsn, writer, work.flushes, writers)


def _raw_copy(dsn: str, encoded: Sequence[bytes], writers: int) -> float:
    """Real time that a bare COPY of the same flushes takes [s]."""

    def writer(conn: Connection) -> Callable[[bytes], None]:
        def store(packed: bytes) -> None:
            with conn.transaction(), conn.cursor() as cursor, cursor.copy(_COPY) as target:
                target.write(packed)

        return store

    return _by_threads(dsn, writer, encoded, writers)


def _by_threads(
    dsn: str, writer: Callable[[Connection], Callable[[T], None]], work: Sequence[T], threads: int
) -> float:
    """Real time until `threads` writers with a connection each have stored all [s]."""
    left = iter(list(work))
    lock = threading.Lock()
    ready = threading.Barrier(threads + 1, timeout=60)
    failures: list[BaseException] = []

    def run_writer() -> None:
        try:
            with _connected(dsn) as conn:
                store = writer(conn)
                ready.wait()
                while True:
                    with lock:
                        item = next(left, None)
                    if item is None:
                        return
                    store(item)
        except BaseException as error:  # noqa: BLE001 (told by the thread that started this one)
            failures.append(error)
            ready.abort()

    started = [threading.Thread(target=run_writer) for _ in range(threads)]
    for thread in started:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait()
    begun = time.perf_counter()
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - begun


def _encoded(work: Load) -> list[bytes]:
    """Each flush as the bytes of one COPY, sorted by (point, time)."""
    decode = registry.codec(registry.DEFAULT_CODEC).decode
    packed = []
    for flush in work.flushes:
        parts = []
        for payload in flush:
            batch = decode(payload)
            group = batch.columns["float"]
            size = len(group)
            parts.append(
                Rows(
                    "float",
                    np.array(group.offsets_us, np.int64) + batch.base_us,
                    np.array(group.values, np.float64),
                    np.full(size, batch.key.seq, np.int64),
                    np.array(group.points, np.int32),
                    np.zeros(size, np.uint8),
                )
            )
        rows = copy.concatenate(parts).sorted()
        packed.append(copy.HEADER + copy.encode(rows) + copy.TRAILER)
    return packed


@contextmanager
def _connected(dsn: str) -> Iterator[Connection]:
    with pool.connect(dsn, "benchmark", autocommit=True) as conn:
        yield conn


# What most projects do: one table, unique by point and time


def _make_usual(conn: Connection) -> None:
    conn.execute("DROP TABLE IF EXISTS usual")
    conn.execute(
        "CREATE TABLE usual (at timestamptz NOT NULL, point_id int NOT NULL, value float8, UNIQUE (point_id, at))"
    )
    if detect(conn) is not Edition.PLAIN:
        conn.execute("SELECT create_hypertable('usual', by_range('at', INTERVAL '7 days'))")


def _rows(payload: bytes) -> list[tuple[datetime, int, float]]:
    document = orjson.loads(payload)
    group = document["f"]
    return [
        (datetime.fromtimestamp((document["t0"] + offset) / SECOND_US, UTC), point, value)
        for point, offset, value in zip(group["p"], group["t"], group["v"], strict=True)
    ]


def _executemany(conn: Connection, payloads: Sequence[bytes]) -> None:
    """A transaction a message, an INSERT a row, pipelined by psycopg."""
    for payload in payloads:
        with conn.transaction(), conn.cursor() as cursor:
            cursor.executemany(_INSERT, _rows(payload))


def _temporary_table(conn: Connection, payloads: Sequence[bytes]) -> None:
    """As many readings in a transaction as a flush of ours: COPY row by row, then INSERT from there."""
    conn.execute("CREATE TEMPORARY TABLE staged (LIKE usual) ON COMMIT DELETE ROWS")
    each = IngestConfig().flush_readings // len(_rows(payloads[0]))
    for at in range(0, len(payloads), each):
        with conn.transaction(), conn.cursor() as cursor:
            with cursor.copy("COPY staged (at, point_id, value) FROM STDIN") as target:
                for payload in payloads[at : at + each]:
                    for row in _rows(payload):
                        target.write_row(row)
            cursor.execute("INSERT INTO usual SELECT * FROM staged ON CONFLICT DO NOTHING")
    conn.execute("DROP TABLE staged")


USUAL: dict[str, Callable[[Connection, Sequence[bytes]], None]] = {
    "insert_on_conflict": _executemany,
    "temporary_table": _temporary_table,
}
