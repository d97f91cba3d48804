from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import psycopg
import pytest

from cloud_ingest.store import partitions as module
from cloud_ingest.store.editions import Edition, detect
from cloud_ingest.store.partitions import DAY_US, Partitions
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.times import to_datetime

JUNE_US = 1_655_136_000_000_000


def insert(conn: Connection, at_us: int) -> None:
    conn.execute("INSERT INTO reading_float VALUES (%s, 1, 1, 1, 0)", (to_datetime(at_us),))


def test_readings_of_any_time_find_room_on_demand(conn: Connection) -> None:
    times = [JUNE_US, JUNE_US + 400 * DAY_US, JUNE_US - 4000 * DAY_US]
    Partitions(conn, 7).ensure("float", np.array(times))
    for at_us in times:
        insert(conn, at_us)
    assert conn.execute("SELECT count(*) FROM reading_float").fetchone() == (3,)


def test_a_changed_width_never_makes_partitions_overlap(conn: Connection) -> None:
    rng = np.random.default_rng(5)
    for width in (7, 3, 30, 1, 11):
        times = JUNE_US + rng.integers(-60, 60, 12) * DAY_US
        Partitions(conn, width).ensure("float", times)
        for at_us in times:
            insert(conn, int(at_us))
    assert conn.execute("SELECT count(*) FROM reading_float").fetchone() == (60,)


def test_several_writers_may_ask_for_the_same_room(connect: Callable[[], Connection]) -> None:
    times = JUNE_US + np.arange(0, 20) * 7 * DAY_US
    failures: list[BaseException] = []

    def ask(conn: Connection) -> None:
        try:
            Partitions(conn, 7).ensure("float", times)
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(connect(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    conn = connect()
    for at_us in times:
        insert(conn, int(at_us))


def test_room_is_made_while_another_writer_is_writing(connect: Callable[[], Connection]) -> None:
    busy, other = connect(), connect()
    Partitions(busy, 7).ensure("float", [JUNE_US])
    other.execute("SET lock_timeout = '20s'")
    with busy.transaction():
        insert(busy, JUNE_US)
        Partitions(other, 7).ensure("float", [JUNE_US + 70 * DAY_US])
        insert(other, JUNE_US + 70 * DAY_US)


def test_a_removed_partition_is_made_again_after_forget(conn: Connection) -> None:
    if detect(conn) is not Edition.PLAIN:
        pytest.skip("hypertables make their chunks themselves")
    partitions = Partitions(conn, 7)
    partitions.ensure("float", [JUNE_US])
    name = conn.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'reading_float'::regclass"
    ).fetchone()
    assert name is not None
    conn.execute(f"DROP TABLE {name[0]}".encode())
    partitions.forget()
    partitions.ensure("float", [JUNE_US])
    insert(conn, JUNE_US)


def test_partitions_of_the_near_future_are_made_ahead(conn: Connection) -> None:
    Partitions(conn, 7).ensure_ahead(JUNE_US)
    insert(conn, JUNE_US + 7 * DAY_US)


def test_the_width_of_new_chunks_follows_the_configuration(conn: Connection) -> None:
    module.set_chunk_width(conn, 2)
    if detect(conn) is not Edition.PLAIN:
        found = conn.execute(
            "SELECT DISTINCT time_interval FROM timescaledb_information.dimensions "
            "WHERE hypertable_name LIKE 'reading%'"
        ).fetchall()
        assert [row[0].days for row in found] == [2]
