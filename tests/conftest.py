"""Fixtures of real services; see docs/testing.md for where they come from."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from deploy.local.postgres import embedded_postgres
from tests.support import services

REQUIRED = os.environ.get("METERCARBON_REQUIRE_SERVICES", "") not in ("", "0")
EDITIONS: tuple[str, ...] = ("postgresql", "timescaledb-apache")
if os.environ.get("METERCARBON_TEST_DSN_COMMUNITY"):
    EDITIONS = (*EDITIONS, "timescaledb-community")


WHOLE_PLANTS = {"pipeline", "faults"}
"""Folders whose tests run one after the other: each fills the machine, and times what it does."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep whole plants on one worker, before xdist looks; most other tests wait more than they compute."""
    for item in items:
        if WHOLE_PLANTS & set(item.path.parts):
            item.add_marker(pytest.mark.xdist_group("whole-plants"))


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A program that a test runs in this process configures the log, which is that of the tests after it, too."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def _missing(error: services.ServiceError) -> None:
    message = f"a real service is missing: {error}"
    if REQUIRED:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def service_dir() -> Iterator[Path]:
    """Data, logs and configs of services of this session.

    Not below pytest's own directory: another session starting takes away the permissions there that the
    embedded PostgreSQL, which never runs as root, depends on.
    """
    with tempfile.TemporaryDirectory(prefix="metercarbon-test-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def postgres_dsn(service_dir: Path) -> Iterator[str]:
    """A plain PostgreSQL server: the embedded one."""
    with embedded_postgres(service_dir / "postgres") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def timescale_dsn(service_dir: Path) -> Iterator[str]:
    """A TimescaleDB server, Apache-2 edition."""
    try:
        with services.timescale(service_dir) as dsn:
            yield dsn
    except services.ServiceError as error:
        _missing(error)


@pytest.fixture(scope="session", params=EDITIONS)
def server_dsn(request: pytest.FixtureRequest) -> str:
    """Each database edition in turn."""
    if request.param == "timescaledb-community":
        return os.environ["METERCARBON_TEST_DSN_COMMUNITY"]
    name = {"postgresql": "postgres_dsn", "timescaledb-apache": "timescale_dsn"}[request.param]
    return str(request.getfixturevalue(name))


@pytest.fixture
def database_dsn(server_dsn: str) -> Iterator[str]:
    """An empty database, on each edition in turn."""
    with services.fresh_database(server_dsn) as dsn:
        yield dsn


@pytest.fixture
def plain_database_dsn(postgres_dsn: str) -> Iterator[str]:
    """An empty database on plain PostgreSQL."""
    with services.fresh_database(postgres_dsn) as dsn:
        yield dsn


@pytest.fixture
def timescale_database_dsn(timescale_dsn: str) -> Iterator[str]:
    """An empty database on TimescaleDB, Apache-2 edition."""
    with services.fresh_database(timescale_dsn) as dsn:
        yield dsn


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    """A Mosquitto of this test's own, without persistence."""
    with ExitStack() as stack:
        try:
            broker = stack.enter_context(services.mosquitto(tmp_path))
        except services.ServiceError as error:
            _missing(error)
        yield broker


@pytest.fixture
def independent_client() -> Callable[[str], list[str]]:
    """Finds clients that share no code with the product, such as mbpoll and mosquitto_sub."""

    def find(name: str) -> list[str]:
        try:
            return services.independent_client(name)
        except services.ServiceError as error:
            _missing(error)
            raise

    return find
