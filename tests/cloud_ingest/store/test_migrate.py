from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cloud_ingest.errors import MigrationError
from cloud_ingest.store import editions, pool
from cloud_ingest.store.migrate import check, migrate, migrations
from cloud_ingest.store.pool import Connection


def test_a_second_run_finds_nothing_to_do(conn: Connection) -> None:
    assert migrate(conn) == []
    check(conn)


def test_an_empty_database_is_reported_with_what_to_do(database_dsn: str) -> None:
    with pool.connect(database_dsn, "test", autocommit=True) as conn, pytest.raises(MigrationError, match="migrate"):
        check(conn)


def test_a_changed_file_is_noticed(conn: Connection) -> None:
    conn.execute("UPDATE schema_migration SET digest = 'other' WHERE number = 1")
    with pytest.raises(MigrationError, match="0001_store"):
        migrate(conn)


def test_a_newer_database_is_refused(conn: Connection) -> None:
    conn.execute("INSERT INTO schema_migration VALUES (9999, '9999_future', 'x')")
    with pytest.raises(MigrationError, match="9999_future"):
        check(conn)


def test_several_processes_migrate_at_once_and_one_does_it(database_dsn: str) -> None:
    applied: list[list[str]] = []

    def run() -> None:
        with pool.connect(database_dsn, "test", autocommit=True) as conn:
            applied.append(migrate(conn))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, applied)) == [0, 0, 0, len(migrations())]


def test_every_connection_has_the_limits_that_protect_the_others(database_dsn: str) -> None:
    limits = pool.Limits(statement_s=7, idle_in_transaction_s=9)
    with pool.connect(database_dsn, "cloud-ingest test", limits) as conn:
        shown = {
            name: conn.execute("SELECT current_setting(%s)", (name,)).fetchone()
            for name in (
                "application_name",
                "statement_timeout",
                "idle_in_transaction_session_timeout",
                "synchronous_commit",
                "TimeZone",
            )
        }
    assert shown == {
        "application_name": ("cloud-ingest test",),
        "statement_timeout": ("7s",),
        "idle_in_transaction_session_timeout": ("9s",),
        "synchronous_commit": ("on",),
        "TimeZone": ("UTC",),
    }


def test_the_pool_hands_out_working_connections(database_dsn: str) -> None:
    with pool.make_pool(database_dsn, "test", 2) as connections, connections.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_the_edition_is_known_and_stays(conn: Connection, server_dsn: str) -> None:
    edition = editions.detect(conn)
    assert edition is editions.available(conn)
    partitioned = conn.execute("SELECT relkind::text FROM pg_class WHERE oid = 'reading_float'::regclass").fetchone()
    assert partitioned == ("p" if edition is editions.Edition.PLAIN else "r",)


def test_reading_tables_have_no_unique_index_and_no_foreign_key(
    conn: Connection, connect: Callable[[], Connection]
) -> None:
    found = conn.execute(
        "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
        "WHERE c.relname LIKE 'reading\\_%' AND i.indisunique"
    ).fetchone()
    assert found == (0,)
    assert conn.execute(
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'ledger'::regclass AND contype = 'f'"
    ).fetchone() == (0,)
