"""Brings the database's tables to what this program needs, by numbered SQL files.

Invariants

- A file ``NNNN_name.sql`` is applied once, in order of its number; ``NNNN_name.native.sql`` or
  ``NNNN_name.timescale.sql`` follows it, whichever fits the edition. All that is missing is applied in one
  transaction with its rows in ``schema_migration``: wholly or not at all.
- Applied files never change: their digests are kept, and a difference is an error.
- Only one process migrates at a time (advisory lock); the others wait and then find nothing to do.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from importlib.resources import files

from psycopg.sql import SQL

from cloud_ingest.errors import MigrationError
from cloud_ingest.store import editions
from cloud_ingest.store.pool import Connection

_log = logging.getLogger(__name__)
_LOCK = 0x6D65_7465_7200_0001
"""Key of the advisory lock."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step.

    Attributes
    ----------
    number, name
        From the file's name.
    texts
        SQL by layout: "" for all, "native", "timescale".
    """

    number: int
    name: str
    texts: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over all texts, hex."""
        whole = "".join(f"{layout}\0{self.texts[layout]}\0" for layout in sorted(self.texts))
        return hashlib.sha256(whole.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All steps that ship with this program, in order.

    Raises
    ------
    MigrationError
        If two steps share a number or a name is not of the form above.
    """
    found: dict[str, dict[str, str]] = {}
    for entry in files("cloud_ingest.store").joinpath("migrations").iterdir():
        if entry.name.endswith(".sql"):
            name, _, layout = entry.name.removesuffix(".sql").partition(".")
            if layout not in ("", "native", "timescale") or not name[:4].isdigit() or name[4:5] != "_":
                raise MigrationError(f"migration {entry.name!r}; allowed: NNNN_name[.native|.timescale].sql")
            found.setdefault(name, {})[layout] = entry.read_text(encoding="utf-8")
    steps = [Migration(int(name[:4]), name, texts) for name, texts in sorted(found.items())]
    for number, step in enumerate(steps, 1):
        if step.number != number:
            raise MigrationError(f"migration {step.name!r} should have number {number:04}")
    return steps


def migrate(conn: Connection) -> list[str]:
    """Apply what is missing.

    Parameters
    ----------
    conn
        A connection outside a transaction.

    Returns
    -------
    list of str
        Names of the steps applied now.

    Raises
    ------
    MigrationError
        If an applied step differs from the file, or the database is newer than this program.
    """
    steps = migrations()
    applied_now = []
    with conn.transaction():
        conn.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        edition = editions.detect(conn)
        if edition is not editions.Edition.PLAIN:
            conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        conn.execute(
            "CREATE TABLE IF NOT EXISTS schema_migration (number int PRIMARY KEY, name text NOT NULL, "
            "digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        applied = _applied(conn)
        _compare(steps, applied)
        for step in steps[len(applied) :]:
            for layout in ("", edition.layout):
                if layout in step.texts:
                    conn.execute(SQL(step.texts[layout]))
            conn.execute(
                "INSERT INTO schema_migration (number, name, digest) VALUES (%s, %s, %s)",
                (step.number, step.name, step.digest),
            )
            applied_now.append(step.name)
    for name in applied_now:
        _log.info("migration %s applied", name, extra={"migration": name, "edition": edition.value})
    return applied_now


def check(conn: Connection) -> None:
    """Make sure that every migration has been applied.

    Raises
    ------
    MigrationError
        If not; the message says what to do.
    """
    steps = migrations()
    exists = conn.execute("SELECT to_regclass('schema_migration') IS NOT NULL").fetchone()
    applied = _applied(conn) if exists == (True,) else []
    _compare(steps, applied)
    if len(applied) < len(steps):
        missing = ", ".join(step.name for step in steps[len(applied) :])
        raise MigrationError(f"the database lacks {missing}; run: cloud-ingest migrate")


def _applied(conn: Connection) -> list[tuple[int, str, str]]:
    return conn.execute("SELECT number, name, digest FROM schema_migration ORDER BY number").fetchall()


def _compare(steps: list[Migration], applied: list[tuple[int, str, str]]) -> None:
    if len(applied) > len(steps):
        raise MigrationError(f"the database has {applied[-1][1]}, which this older program does not know")
    for step, (_, name, digest) in zip(steps, applied, strict=False):
        if (step.name, step.digest) != (name, digest):
            raise MigrationError(
                f"migration {name} was applied with digest {digest:.12}; the file is {step.name} with {step.digest:.12}"
            )
