"""GET /v1/quarantine: readings with times that can't be."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Query as InQuery
from fastapi.responses import Response
from pydantic import Field

from cloud_ingest.api import cursors, models
from cloud_ingest.api.errors import ParameterError
from cloud_ingest.api.state import PageQuery, Shared, json, tenant_id, tenant_name
from cloud_ingest.store import quarantine as store
from cloud_ingest.store.quarantine import Fits, Quarantined
from protocols.quality import label

router = APIRouter()


class QuarantineQuery(PageQuery):
    """Filters; all given ones must fit."""

    agent: str | None = Field(default=None, description="Only readings that this agent sent.")
    point: str | None = Field(default=None, description="Only readings of this point: `site/device/tag`.")
    state: str = Field(default="held", description="held, released or discarded.")


@router.get("/v1/quarantine", response_model=models.Quarantine, tags=["operation"])
def quarantine(state: Shared, query: Annotated[QuarantineQuery, InQuery()]) -> Response:
    """Readings of a tenant that came with a time that can't be, newest first.

    The command `cloud-ingest quarantine` releases and discards them.
    """
    if query.state not in store.STATES:
        raise ParameterError("state", query.state, ", ".join(store.STATES))
    limit = query.checked_limit(state)
    below = cursors.decode("quarantine", query.cursor, (int,))[0] if query.cursor else None
    with state.pool.connection() as conn:
        tenant_id(conn, state, query)
        fits = Fits(tenant_name(state, query), query.agent, query.point, query.state)
        found = store.newest(conn, limit + 1, below, fits)
    follows = cursors.encode("quarantine", (found[limit - 1].id,)) if len(found) > limit else None
    return json({"readings": [_document(reading) for reading in found[:limit]], "next": follows})


def _document(reading: Quarantined) -> dict[str, Any]:
    document = asdict(reading)
    del document["tenant"]
    return document | {
        "quality": label(reading.quality),
        "quarantined_at": reading.quarantined_at.isoformat(),
    }
