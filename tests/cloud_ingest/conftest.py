"""A migrated database, on each edition in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from cloud_ingest.store import pool
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.pool import Connection


@pytest.fixture
def connect(database_dsn: str) -> Iterator[Callable[[], Connection]]:
    """Opens further connections to the test's database, in autocommit mode."""
    with ExitStack() as stack:

        def open_one() -> Connection:
            return stack.enter_context(pool.connect(database_dsn, "test", autocommit=True))

        migrate(open_one())
        yield open_one


@pytest.fixture
def conn(connect: Callable[[], Connection]) -> Connection:
    """A connection to a migrated database, in autocommit mode."""
    return connect()
