"""The API over a small plant with settled accounts; one database for all tests of this folder, which only read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from cloud_ingest.api.config import ApiConfig
from cloud_ingest.api.runtime import Server
from cloud_ingest.signals import Signals
from cloud_ingest.store import pool
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.pool import Connection
from tests.support import services
from tests.support.small_plant import HOUR_US, MINUTE_US, TENANT, SmallPlant, steady

METERS = ("mill/energy", "fans/energy", "dryer/energy", "dryer/coal", "scale/mass", "pumps/volume", "incomer/energy")


@pytest.fixture(scope="session")
def plant_dsn(postgres_dsn: str) -> Iterator[str]:
    """A database with a day of readings, one of them late, and their accounts."""
    with services.fresh_database(postgres_dsn) as dsn, ExitStack() as stack:

        def connect() -> Connection:
            return stack.enter_context(pool.connect(dsn, "test", autocommit=True))

        migrate(connect())
        plant = SmallPlant(connect)
        whole = steady(60.0, -HOUR_US, 26 * HOUR_US)
        plant.send_many([(name, whole) for name in METERS if name != "fans/energy"])
        plant.send("fans/energy", whole[:680] + whole[690:])
        plant.settle()
        plant.send("fans/energy", whole[680:690])
        plant.send("pumps/volume", [(steady(0.0, 27 * HOUR_US, 27 * HOUR_US)[0][0], None)])
        plant.send("mill/power", [(at, value, 64) for at, value in steady(5.0, 0, 10 * MINUTE_US)])
        plant.settle()
        yield dsn


@contextmanager
def _served(config: ApiConfig, dsn: str, signals: Signals, waiting: tuple[str, ...] = ()) -> Iterator[httpx.Client]:
    server = Server(config.model_copy(update={"port": 0}), dsn, signals, lambda: waiting)
    server.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
            yield client
    finally:
        server.stop()


@pytest.fixture(scope="session")
def client(plant_dsn: str) -> Iterator[httpx.Client]:
    """A client of the API."""
    with _served(ApiConfig(tenant=TENANT, max_rows=2000), plant_dsn, Signals()) as found:
        yield found


@pytest.fixture
def client_of(plant_dsn: str) -> Iterator[Callable[..., httpx.Client]]:
    """Clients of an API with another configuration, other signals or another database."""
    with ExitStack() as stack:

        def make(
            config: ApiConfig, dsn: str = "", waiting: tuple[str, ...] = (), signals: Signals | None = None
        ) -> httpx.Client:
            return stack.enter_context(_served(config, dsn or plant_dsn, signals or Signals(), waiting))

        yield make
