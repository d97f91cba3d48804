"""The application: routes, errors, connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI

from cloud_ingest.api import errors, models
from cloud_ingest.api.config import ApiConfig
from cloud_ingest.api.routes import accounts, agents, dead_letters, operation, points, quarantine, readings, status
from cloud_ingest.api.state import State, product_version
from cloud_ingest.signals import Signals
from cloud_ingest.store import pool
from cloud_ingest.store.pool import Limits

_ABOUT = """Energy and CO₂ figures from meters' readings.

Times are ISO 8601 with an offset, in and out (in a URL a `+` is written `%2B`). Errors are problem documents
(RFC 9457) that name the parameter, its value and what is allowed. Lists come in pages: pass `next` as `cursor`
until it is null. A value that is not known is null, never 0.
"""
_PROBLEM: dict[int | str, dict[str, Any]] = {
    code: {"model": models.Problem, "description": meaning, "content": {errors.MEDIA_TYPE: {}}}
    for code, meaning in (
        (404, "Something named in the request does not exist."),
        (422, "A parameter is not allowed."),
        (503, "The database is not available, or the query took too long."),
    )
}


def create_app(
    config: ApiConfig,
    dsn: str,
    signals: Signals,
    waiting_for: Callable[[], Sequence[str]] = lambda: (),
) -> FastAPI:
    """Build the application.

    Parameters
    ----------
    config
        See `ApiConfig`.
    dsn
        The database.
    signals
        What ``/metrics`` shows.
    waiting_for
        What other parts of this process are not ready yet; empty when all are.
    """
    limits = Limits(statement_s=config.statement_timeout_s)
    connections = pool.make_pool(dsn, "cloud-ingest api", config.connections, limits)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        connections.open()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(connections.close)

    app = FastAPI(
        title="metercarbon",
        version=product_version(),
        description=_ABOUT,
        lifespan=lifespan,
        responses=_PROBLEM,
    )
    app.state.shared = State(config, connections, signals, waiting_for)
    errors.install(app)
    for module in (points, readings, accounts, agents, dead_letters, quarantine, status, operation):
        app.include_router(module.router)
    return app
