"""What every route works with: configuration, connections, tenant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Any

import orjson
from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cloud_ingest.api.config import ApiConfig
from cloud_ingest.api.errors import NotFoundError, ParameterError
from cloud_ingest.signals import Signals
from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection, Pool
from protocols import topics
from protocols.errors import ProtocolError

SQL = sql.load("cloud_ingest.api", "queries.sql")


@dataclass(frozen=True, slots=True)
class State:
    """Shared by the routes of one application.

    Attributes
    ----------
    config
        See `ApiConfig`.
    pool
        Database connections.
    signals
        What ``/metrics`` shows.
    waiting_for
        What other parts of this process are not ready yet, as ``/readyz`` tells it.
    """

    config: ApiConfig
    pool: Pool
    signals: Signals
    waiting_for: Callable[[], Sequence[str]]


def get_state(request: Request) -> State:
    """State of the application that serves a request."""
    state = request.app.state.shared
    assert isinstance(state, State)
    return state


Shared = Annotated[State, Depends(get_state)]


class Query(BaseModel):
    """Query parameters; unknown ones are refused, so that a misspelt filter is never silently left out."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and "\0" in text:
                raise ValueError("text without NUL characters")
        return value


class TenantQuery(Query):
    """Parameters of every route about a tenant's data."""

    tenant: str | None = Field(default=None, description="Whose data; default: the tenant of the configuration.")


class PageQuery(TenantQuery):
    """Parameters of every route that answers in pages."""

    limit: int = Field(default=1000, ge=1, description="Most rows of a page.")
    cursor: str | None = Field(default=None, description="`next` of the page before.")

    def checked_limit(self, state: State) -> int:
        """The limit, if the configuration allows it.

        Raises
        ------
        ParameterError
            If not.
        """
        if self.limit > state.config.max_rows:
            allowed = f"1 to {state.config.max_rows}; ask for the next pages by `cursor`"
            raise ParameterError("limit", self.limit, allowed)
        return self.limit


def tenant_name(state: State, query: TenantQuery) -> str:
    """Name of the tenant that a request is about."""
    return state.config.tenant if query.tenant is None else query.tenant


def tenant_id(conn: Connection, state: State, query: TenantQuery) -> int:
    """Id of the tenant that a request is about.

    Raises
    ------
    NotFoundError, ParameterError
        If there is no such tenant, or it can't be a name.
    """
    name = tenant_name(state, query)
    try:
        topics.check_name("tenant", name)
    except ProtocolError as error:
        raise ParameterError("tenant", name, topics.NAME_RULE) from error
    row = conn.execute(SQL["tenant"], {"name": name}).fetchone()
    if row is None:
        raise NotFoundError("tenant", name, "a tenant is registered when its first agent connects")
    return int(row[0])


def json(document: dict[str, Any]) -> Response:
    """Answer with a document that fits the route's response model as it is."""
    return Response(orjson.dumps(document), media_type="application/json")


def product_version() -> str:
    """Version of the installed product; "unknown" where it runs from its source tree."""
    try:
        return metadata.version("metercarbon")
    except metadata.PackageNotFoundError:
        return "unknown"
