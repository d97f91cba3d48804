"""GET /v1/agents: who sends, and whether they are there."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi import Query as InQuery
from fastapi.responses import Response

from cloud_ingest.api import models
from cloud_ingest.api.state import SQL, Shared, TenantQuery, json, tenant_id
from cloud_ingest.api.times import iso

router = APIRouter()


@router.get("/v1/agents", response_model=models.Agents, tags=["catalogue"])
def agents(state: Shared, query: Annotated[TenantQuery, InQuery()]) -> Response:
    """Agents of a tenant with their latest state."""
    with state.pool.connection() as conn:
        rows = conn.execute(SQL["agents"], {"tenant_id": tenant_id(conn, state, query)}).fetchall()
    return json(
        {
            "agents": [
                {
                    "name": name,
                    "state": at,
                    "state_at": None if state_us is None else iso(state_us),
                    "software": software,
                    "detail": detail,
                    "last_batch_at": None if batch_us is None else iso(batch_us),
                }
                for name, at, state_us, software, detail, batch_us in rows
            ]
        }
    )
