"""GET /v1/points: what is measured."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi import Query as InQuery
from fastapi.responses import Response
from pydantic import Field

from cloud_ingest.api import cursors, models
from cloud_ingest.api.state import SQL, PageQuery, Shared, json, tenant_id

router = APIRouter()
_COLUMNS = ("name", "site", "device", "tag", "quantity", "unit", "kind", "medium", "value_type", "definition")


class PointsQuery(PageQuery):
    """Filters; all given ones must fit."""

    site: str | None = Field(default=None, description="Only points of this site.")
    device: str | None = Field(default=None, description="Only points of this device.")
    tag: str | None = Field(default=None, description="Only points with this tag.")
    quantity: str | None = Field(default=None, description="Such as active_energy.")
    kind: str | None = Field(default=None, description="counter, gauge, state or event.")
    medium: str | None = Field(default=None, description="Such as electricity.")


@router.get("/v1/points", response_model=models.Points, tags=["catalogue"])
def points(state: Shared, query: Annotated[PointsQuery, InQuery()]) -> Response:
    """Points as agents announced them, ordered by name."""
    limit = query.checked_limit(state)
    after = cursors.decode("points", query.cursor, (str,))[0] if query.cursor else ""
    with state.pool.connection() as conn:
        parameters = query.model_dump(exclude={"tenant", "cursor"}) | {
            "tenant_id": tenant_id(conn, state, query),
            "after": after,
            "limit": limit + 1,
        }
        rows = conn.execute(SQL["points"], parameters).fetchall()
    found = [dict(zip(_COLUMNS, row, strict=True)) for row in rows[:limit]]
    follows = cursors.encode("points", (found[-1]["name"],)) if len(rows) > limit else None
    return json({"points": found, "next": follows})
