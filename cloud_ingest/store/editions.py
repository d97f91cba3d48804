"""Which database this is: plain PostgreSQL, TimescaleDB under Apache-2, or TimescaleDB community.

Asked of ``timescaledb.license``, never of a version or the name of a distribution.
"""

from __future__ import annotations

from enum import Enum

from psycopg.rows import scalar_row

from cloud_ingest.errors import StoreError
from cloud_ingest.store.pool import Connection


class Edition(Enum):
    """Edition of the database."""

    PLAIN = "plain"
    APACHE = "timescaledb-apache"
    COMMUNITY = "timescaledb-community"

    @property
    def layout(self) -> str:
        """How the reading tables are divided by time: ``native`` partitions or ``timescale`` hypertables."""
        return "native" if self is Edition.PLAIN else "timescale"


_LICENSES = {"apache": Edition.APACHE, "timescale": Edition.COMMUNITY}


def available(conn: Connection) -> Edition:
    """Ask the server what a new database on it can be.

    Raises
    ------
    StoreError
        If the license is one this program does not know.
    """
    with conn.cursor(row_factory=scalar_row) as cursor:
        found = cursor.execute("SELECT current_setting('timescaledb.license', true)").fetchone()
    if not found:
        return Edition.PLAIN
    try:
        return _LICENSES[found]
    except KeyError:
        raise StoreError(f"timescaledb.license is {found!r}; known: {', '.join(_LICENSES)}") from None


def detect(conn: Connection) -> Edition:
    """Find the edition that this database was set up for; `available` if it has no tables yet.

    A database set up on plain PostgreSQL stays plain when TimescaleDB is added to its server later.
    """
    with conn.cursor(row_factory=scalar_row) as cursor:
        kind = cursor.execute("SELECT relkind::text FROM pg_class WHERE oid = to_regclass('reading_float')").fetchone()
    if kind == "p":
        return Edition.PLAIN
    return available(conn)
