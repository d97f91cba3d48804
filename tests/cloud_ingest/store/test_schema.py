"""Schema == migrations: what the code's SQL names is there, whichever way a database came to its tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL

from cloud_ingest.errors import MigrationError
from cloud_ingest.store import migrate as migrating
from cloud_ingest.store import pool, sql
from cloud_ingest.store.migrate import Migration, check, migrate, migrations
from cloud_ingest.store.pool import Connection
from tests.support import services

PACKAGES = ("cloud_ingest.store", "cloud_ingest.api", "cloud_ingest.settle", "cloud_ingest.ingest")
RELEASED = {
    "0001_store": "cdd65908f5af1ca7550c4d8fd2fc7ccff1da462d7819d0ae64255de5e46692b1",
    "0002_settle": "0a31db4b60f548e04fadae452a7f4922a94bb72fc6ebc4da76487e417022ae07",
}
"""Digests of steps that databases in use have applied: their files never change again."""

CATALOGUE = """
SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text,
       coalesce(pg_get_expr(d.adbin, d.adrelid), ''), a.attidentity::text, a.attgenerated::text,
       coalesce(col_description(c.oid, a.attnum), ''), coalesce(obj_description(c.oid, 'pg_class'), ''),
       coalesce(c.reloptions::text, ''), c.relkind::text
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
UNION ALL
SELECT 'index', tablename, indexname, indexdef, '', '', '', '', '', '', '', ''
FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', '', '', '', '', '', ''
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), '', '', '', '', '', '', '', ''
FROM pg_trigger WHERE NOT tgisinternal
ORDER BY 1, 2, 3, 4
"""


def catalogue(conn: Connection) -> list[tuple[Any, ...]]:
    """Every column, index, constraint and trigger."""
    return conn.execute(CATALOGUE.encode()).fetchall()


def statements() -> Iterator[tuple[str, str]]:
    """Every named statement of the cloud side, with where it stands."""
    for package in PACKAGES:
        for entry in files(package).iterdir():
            if entry.name.endswith(".sql"):
                for name, text in sql.load(package, entry.name).items():
                    yield f"{package}/{entry.name}: {name}", text.as_string(None)


def tried(text: str) -> str:
    """A statement that the database checks against its tables, and that changes nothing that stays."""
    text = (
        text.format(
            table="reading_float",
            values="string_agg(float8send(value), ''::bytea)",
            partition="reading_tried",
            first="'1999-01-01'",
            end="'1999-01-02'",
        )
        if "{table}" in text
        else text
    )
    # Times are bound with their type; of all others the statement says it or does not need it.
    text = re.sub(r"%\((first|last)\)s(?!::)", "NULL::timestamptz", text)
    text = re.sub(r"%\(\w+\)s|%s", "NULL", text)
    copied = re.fullmatch(r"(?:--.*\n)*COPY (\w+) \(([\w, ]+)\) FROM STDIN.*", text, re.DOTALL)
    if copied:
        return f"SELECT {copied[2]} FROM {copied[1]} LIMIT 0"
    body = re.sub(r"^--.*\n", "", text, flags=re.MULTILINE).strip()
    if body.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
        return f"EXPLAIN {text}"
    # Locks and partitions can't be explained: they are done, and rolled back.
    return body


def test_every_statement_fits_the_migrated_tables(conn: Connection) -> None:
    native = conn.execute("SELECT relkind = 'p' FROM pg_class WHERE oid = 'reading_float'::regclass").fetchone()
    number = 0
    for where, text in statements():
        if where.endswith("partitions.sql: make") and native != (True,):
            continue
        try:
            with conn.transaction(force_rollback=True):
                conn.execute(SQL(tried(text)))
        except psycopg.Error as error:
            error.add_note(where)
            raise
        number += 1
    assert number > 80


def test_a_statement_on_a_table_that_is_not_there_would_be_found(conn: Connection) -> None:
    conn.execute("ALTER TABLE dead_letter RENAME COLUMN reason TO why")
    with pytest.raises(psycopg.errors.UndefinedColumn, match="reason"):
        test_every_statement_fits_the_migrated_tables(conn)


def test_step_by_step_and_at_once_lead_to_the_same_tables(
    server_dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = migrations()
    with (
        services.fresh_database(server_dsn) as dsn,
        pool.connect(dsn, "test", autocommit=True) as other,
    ):
        for number, step in enumerate(steps, 1):
            monkeypatch.setattr(migrating, "migrations", lambda n=number: steps[:n])
            assert migrate(other) == [step.name]
            check(other)
        assert catalogue(other) == catalogue(conn)
    assert len(catalogue(conn)) > 150


def test_steps_that_were_released_have_not_changed() -> None:
    found = {step.name: step.digest for step in migrations()}
    assert {name: found[name] for name in RELEASED} == RELEASED


def test_a_file_that_changed_after_it_was_applied_is_refused_and_nothing_is_done(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = migrations()
    last = steps[-1]
    changed = Migration(last.number, last.name, {**last.texts, "": last.texts[""] + "\n-- one more line\n"})
    added = Migration(last.number + 1, "9999_added", {"": "CREATE TABLE added (x int)"})
    monkeypatch.setattr(migrating, "migrations", lambda: [*steps[:-1], changed, added])
    before = catalogue(conn)
    for do in (migrate, check):
        with pytest.raises(MigrationError, match=rf"{last.name} was applied with digest {last.digest[:12]}"):
            do(conn)
    assert catalogue(conn) == before


def test_a_step_that_fails_leaves_the_database_as_it_was(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = migrations()
    number = len(steps) + 1
    added = [
        Migration(number, "9998_good", {"": "CREATE TABLE added (x int)"}),
        Migration(number + 1, "9999_bad", {"": "ALTER TABLE nowhere ADD COLUMN x int"}),
    ]
    monkeypatch.setattr(migrating, "migrations", lambda: [*steps, *added])
    before = catalogue(conn)
    with pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"):
        migrate(conn)
    assert catalogue(conn) == before
    assert conn.execute("SELECT count(*) FROM schema_migration").fetchone() == (len(steps),)


def test_what_was_there_before_the_registry_is_registered_by_its_migration(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = migrations()
    before = next(n for n, step in enumerate(steps) if step.name.endswith("_registry"))
    with pool.connect(database_dsn, "test", autocommit=True) as conn:
        monkeypatch.setattr(migrating, "migrations", lambda: steps[:before])
        migrate(conn)
        conn.execute("INSERT INTO tenant (name) VALUES ('acme')")
        conn.execute(
            "INSERT INTO point (tenant_id, site, device, tag, quantity, unit, kind, medium, value_type, definition, "
            "described_at) SELECT 1, site, 'd', tag, 'q', '1', 'gauge', '', 'float', '{}', now() "
            "FROM unnest('{north,south}'::text[]) AS site, unnest('{a,b}'::text[]) AS tag"
        )
        monkeypatch.undo()
        migrate(conn)
        rows = conn.execute("SELECT name, disabled_at FROM site ORDER BY name").fetchall()
    assert rows == [("north", None), ("south", None)]
