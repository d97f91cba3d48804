"""GET /v1/readings: what was measured, as columns."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter
from fastapi import Query as InQuery
from fastapi.responses import Response
from pydantic import Field

from cloud_ingest.api import cursors, models
from cloud_ingest.api.errors import NotFoundError, ParameterError
from cloud_ingest.api.state import SQL, PageQuery, Shared, json, tenant_id
from cloud_ingest.api.times import Instant, check_range, iso_column
from cloud_ingest.store import readings as store
from cloud_ingest.store.readings import Series
from protocols.quality import FIRST_BAD, label

router = APIRouter()
MAX_POINTS = 100
_label = cache(label)


class ReadingsQuery(PageQuery):
    """Which readings."""

    point: list[str] = Field(
        default_factory=list, description="Full name `site/device/tag`; give it once for each point, up to 100."
    )
    from_us: Instant = Field(alias="from", description="First time, included: ISO 8601 with offset.")
    to_us: Instant = Field(alias="to", description="End, not included: ISO 8601 with offset.")


@router.get("/v1/readings", response_model=models.Readings, tags=["readings"])
def readings(state: Shared, query: Annotated[ReadingsQuery, InQuery()]) -> Response:
    """Readings of up to 100 points, one a point and time, ordered by point as asked for and time.

    Two readings of one point at one time are one: the later in the ledger, marked `uncertain_conflict` if they
    differ.
    """
    limit = query.checked_limit(state)
    names = list(dict.fromkeys(query.point))
    if not 1 <= len(names) <= MAX_POINTS:
        raise ParameterError("point", query.point, f"1 to {MAX_POINTS} points; /v1/points lists them")
    check_range(query.from_us, query.to_us)
    place, first_us = 0, query.from_us
    if query.cursor:
        place, first_us = cursors.decode("readings", query.cursor, (int, int))
        if not (0 <= place < len(names) and query.from_us <= first_us < query.to_us):
            raise ParameterError("cursor", query.cursor, "the `next` of an earlier page of the same query")
    pages: list[tuple[int, Series]] = []
    follows = None
    with state.pool.connection() as conn:
        parameters = {"tenant_id": tenant_id(conn, state, query), "names": names}
        known = {name: rest for name, *rest in conn.execute(SQL["points_by_name"], parameters).fetchall()}
        for name in names:
            if name not in known:
                raise NotFoundError("point", name, "/v1/points lists those that exist")
        while place < len(names) and limit > 0:
            point_id, _unit, value_type = known[names[place]]
            page, next_us = store.page(conn, value_type, point_id, first_us, query.to_us - 1, limit)
            pages.append((place, page))
            limit -= len(page)
            place, first_us = (place + 1, query.from_us) if next_us is None else (place, next_us)
    if place < len(names):
        follows = cursors.encode("readings", (place, first_us))
    described = [{"name": name, "unit": known[name][1], "value_type": known[name][2]} for name in names]
    return json({"points": described, "columns": _columns(pages), "next": follows})


def _columns(pages: list[tuple[int, Series]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"point": [], "at": [], "value": [], "quality": [], "batch": []}
    for place, page in pages:
        values = page.values.tolist()
        for row in np.flatnonzero(page.qualities >= FIRST_BAD).tolist():
            values[row] = None
        columns["point"] += [place] * len(page)
        columns["at"] += iso_column(page.times_us)
        columns["value"] += values
        columns["quality"] += [_label(code) for code in page.qualities.tolist()]
        columns["batch"] += page.batch_ids.tolist()
    return columns
