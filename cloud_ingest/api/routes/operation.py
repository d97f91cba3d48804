"""Index, health, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from cloud_ingest.api import models
from cloud_ingest.api.errors import UnavailableError
from cloud_ingest.api.metrics import exposition
from cloud_ingest.api.state import SQL, Shared, json, product_version
from cloud_ingest.errors import StoreError
from cloud_ingest.store import migrate

router = APIRouter()


@router.get("/", response_model=models.Index, tags=["operation"])
def index(request: Request) -> Response:
    """What this server offers."""
    document = request.app.openapi()
    routes = sorted(path for path in document["paths"] if path.startswith("/v1/"))
    return json(
        {
            "name": "metercarbon",
            "version": product_version(),
            "docs": "/docs",
            "openapi": "/openapi.json",
            "routes": routes,
        }
    )


@router.get("/healthz", response_model=models.Health, tags=["operation"])
def healthz() -> Response:
    """Whether the process runs; says nothing of the database."""
    return json({"status": "ok"})


@router.get("/readyz", response_model=models.Health, tags=["operation"])
def readyz(state: Shared) -> Response:
    """Whether requests can be answered: the database is there and up to date, and this process has started up."""
    waiting = list(state.waiting_for())
    if waiting:
        raise UnavailableError("not ready yet: " + "; ".join(waiting))
    with state.pool.connection(timeout=2) as conn:
        conn.execute(SQL["ping"])
        try:
            migrate.check(conn)
        except StoreError as error:
            raise UnavailableError(str(error)) from error
    return json({"status": "ok"})


@router.get("/metrics", response_class=PlainTextResponse, tags=["operation"])
def metrics(state: Shared) -> Response:
    """Counters and gauges of this process in the text format of Prometheus."""
    return PlainTextResponse(exposition(state.signals.snapshot()), media_type="text/plain; version=0.0.4")
