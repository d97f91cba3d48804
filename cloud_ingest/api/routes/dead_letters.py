"""GET /v1/dead-letters: messages that could not be stored."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi import Query as InQuery
from fastapi.responses import Response
from pydantic import Field

from cloud_ingest.api import cursors, models
from cloud_ingest.api.errors import NotFoundError, ParameterError
from cloud_ingest.api.state import PageQuery, Shared, TenantQuery, json, tenant_id, tenant_name
from cloud_ingest.store import letters
from cloud_ingest.store.letters import Fits, Stored

router = APIRouter()
_LARGEST = 2**63 - 1


class LettersQuery(PageQuery):
    """Filters; all given ones must fit."""

    agent: str | None = Field(default=None, description="Only letters of this agent's topics.")
    kind: str | None = Field(default=None, description="Only letters of this kind: " + ", ".join(letters.KINDS) + ".")
    reason: str | None = Field(default=None, description="Only letters with this text in their reason.")


@router.get("/v1/dead-letters", response_model=models.DeadLetters, tags=["operation"])
def dead_letters(state: Shared, query: Annotated[LettersQuery, InQuery()]) -> Response:
    """Dead letters of a tenant, newest first.

    Those whose topic names no tenant are listed by the command `cloud-ingest dlq` only, as is what replays and
    discards them.
    """
    if query.kind is not None and query.kind not in letters.KINDS:
        raise ParameterError("kind", query.kind, ", ".join(letters.KINDS))
    limit = query.checked_limit(state)
    below = cursors.decode("dead-letters", query.cursor, (int,))[0] if query.cursor else None
    with state.pool.connection() as conn:
        tenant_id(conn, state, query)
        fits = Fits(tenant_name(state, query), query.agent, query.kind, query.reason)
        found = letters.newest(conn, limit + 1, below, fits)
    follows = cursors.encode("dead-letters", (found[limit - 1].id,)) if len(found) > limit else None
    return json({"dead_letters": [_document(letter) for letter in found[:limit]], "next": follows})


@router.get("/v1/dead-letters/{id}", response_model=models.DeadLetter, tags=["operation"])
def dead_letter(
    state: Shared,
    ident: Annotated[int, Path(alias="id", ge=1, le=_LARGEST, description="From the list.")],
    query: Annotated[TenantQuery, InQuery()],
) -> Response:
    """One dead letter of a tenant with its bytes."""
    with state.pool.connection() as conn:
        tenant_id(conn, state, query)
        found = letters.find(conn, ident)
    if found is None or found[0].tenant != tenant_name(state, query):
        raise NotFoundError("id", ident, "/v1/dead-letters lists those that exist")
    letter, payload = found
    return json(_document(letter) | {"payload": base64.b64encode(payload).decode()})


def _document(letter: Stored) -> dict[str, Any]:
    document = asdict(letter)
    del document["tenant"]
    return document | {"first_at": letter.first_at.isoformat(), "last_at": letter.last_at.isoformat()}
