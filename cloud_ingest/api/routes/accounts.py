"""GET /v1/accounts: use, output, unit use and CO₂ by process, hour and day, down to the meters behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter
from fastapi import Query as InQuery
from fastapi.responses import Response
from pydantic import Field

from cloud_ingest.api import cursors, models
from cloud_ingest.api.state import SQL, PageQuery, Shared, json, tenant_id
from cloud_ingest.api.times import Instant, check_range, iso

router = APIRouter()
_KEY = ("after_us", "after_site", "after_process", "after_carrier", "after_period", "after_revision")
_BEFORE_ALL = (-(2**53), "", "", "", "", 0)
_MICRO = 1e-6


class AccountsQuery(PageQuery):
    """Filters; all given ones must fit."""

    site: str | None = Field(default=None, description="Only accounts of this site.")
    process: str | None = Field(default=None, description="Only this process, or `balance:…` of this balance.")
    carrier: str | None = Field(default=None, description="Such as electricity.")
    period: Literal["hour", "day"] | None = Field(default=None, description="hour or day; default: both.")
    from_us: Instant | None = Field(
        default=None, alias="from", description="Earliest start, included: ISO 8601 with offset."
    )
    to_us: Instant | None = Field(
        default=None, alias="to", description="Latest start, not included: ISO 8601 with offset."
    )
    revisions: Literal["current", "all"] = Field(
        default="current", description="current: the latest of each account; all: earlier ones too."
    )


@router.get("/v1/accounts", response_model=models.Accounts, tags=["accounts"])
def accounts(state: Shared, query: Annotated[AccountsQuery, InQuery()]) -> Response:
    """Accounts, ordered by start, site, process, carrier, period and revision."""
    limit = query.checked_limit(state)
    check_range(query.from_us, query.to_us)
    after: Sequence[Any] = _BEFORE_ALL
    if query.cursor:
        after = cursors.decode("accounts", query.cursor, (int, str, str, str, str, int))
    elif query.from_us is not None:
        after = (query.from_us, *_BEFORE_ALL[1:])
    with state.pool.connection() as conn:
        parameters = query.model_dump(exclude={"tenant", "cursor", "revisions"}) | {
            "tenant_id": tenant_id(conn, state, query),
            "revisions": query.revisions == "all",
            "limit": limit + 1,
            **dict(zip(_KEY, after, strict=True)),
        }
        rows = conn.execute(SQL["accounts"], parameters).fetchall()
    follows = None
    if len(rows) > limit:
        site, process, carrier, period, start_us, _, revision, *_ = rows[limit - 1]
        follows = cursors.encode("accounts", (start_us, site, process, carrier, period, revision))
    return json({"accounts": [_account(row) for row in rows[:limit]], "next": follows})


def _account(row: Sequence[Any]) -> dict[str, Any]:
    (site, process, carrier, period, start_us, end_us, revision, current, final, use, unit) = row[:11]
    coverage, estimated_share, product, output, output_unit, output_coverage, output_estimated = row[11:18]
    unit_use, co2_kg, co2_per_output, factor, flags, notes, inputs, digest, timezone, computed_us = row[18:]
    zone = ZoneInfo(timezone)
    made = unit_figure = co2_figure = None
    if product is not None:
        known = estimated_share is not None and output_estimated is not None
        quality = {
            "coverage": min(coverage, output_coverage),
            "estimated_share": max(estimated_share, output_estimated) if known else None,
        }
        unit_figure = {"value": unit_use, "unit": f"{unit}/{output_unit}", **quality}
        co2_figure = {"value": co2_per_output, "unit": f"kg/{output_unit}", **quality}
        made = {
            "product": product,
            "value": output,
            "unit": output_unit,
            "coverage": output_coverage,
            "estimated_share": output_estimated,
        }
    return {
        "site": site,
        "process": process,
        "carrier": carrier,
        "period": period,
        "start": iso(start_us, zone),
        "end": iso(end_us, zone),
        "revision": revision,
        "current": current,
        "status": "final" if final else "provisional",
        "use": {"value": use, "unit": unit, "coverage": coverage, "estimated_share": estimated_share},
        "output": made,
        "unit_use": unit_figure,
        "co2": {
            "value": co2_kg,
            "unit": "kg",
            "coverage": coverage,
            "estimated_share": None if co2_kg is None else estimated_share,
            "per_output": co2_figure,
            "factor": factor,
        },
        "flags": flags,
        "notes": notes,
        "inputs": [
            _input(site, role, entry, end_us - start_us) for role in ("use", "output") for entry in inputs[role]
        ],
        "plant_model": digest,
        "computed_at": iso(computed_us),
    }


def _input(site: str, role: str, entry: Sequence[Any], length_us: int) -> dict[str, Any]:
    point, share, amount, covered_us, estimated, flags = entry
    estimated_share = None
    if amount is not None:
        estimated_share = min(estimated / abs(amount), 1.0) if amount else float(estimated > 0)
    return {
        "point": f"{site}/{point}",
        "role": role,
        "share": share,
        "value": None if amount is None else amount * _MICRO,
        "coverage": covered_us / length_us,
        "estimated_share": estimated_share,
        "flags": flags,
    }
