"""GET /v1/status: how far settle is behind, and what waits for somebody."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi import Query as InQuery
from fastapi.responses import Response
from pydantic import Field

from cloud_ingest.api import models
from cloud_ingest.api.state import SQL, Query, Shared, json
from cloud_ingest.store import editions, feed

router = APIRouter()
_FOLLOWER = "settle"
_MOST = 10_000


class StatusQuery(Query):
    """What else to tell."""

    totals: bool = Field(default=False, description="Sum up the whole ledger too.")


@router.get("/v1/status", response_model=models.Status, tags=["operation"])
def status(state: Shared, query: Annotated[StatusQuery, InQuery()]) -> Response:
    """State of the store and of settle; nothing in it is of one tenant."""
    with state.pool.connection() as conn:
        edition = editions.detect(conn).value
        lag = next((found for found in feed.lag(conn) if found.follower == _FOLLOWER), None)
        holders = feed.holders(conn) if lag is not None and lag.held_rows else []
        parked, dead_letters, provisional = conn.execute(SQL["counts"], {"most": _MOST}).fetchall()[0]
        ledger = None
        if query.totals:
            messages, readings = conn.execute(SQL["ledger"]).fetchall()[0]
            ledger = {"messages": messages, "readings": readings}
    return json(
        {
            "edition": edition,
            "feed": {
                "lag_rows": None if lag is None else lag.rows,
                "held_rows": None if lag is None else lag.held_rows,
                "oldest_s": None if lag is None else lag.oldest_s,
                "holders": [
                    {"pid": h.pid, "application": h.application, "state": h.state, "age_s": h.age_s} for h in holders
                ],
            },
            "parked": parked,
            "dead_letters": dead_letters,
            "provisional_accounts": provisional,
            "ledger": ledger,
        }
    )
