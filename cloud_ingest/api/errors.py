"""Errors of the API, answered as problem documents (RFC 9457) that name parameter, value and what is allowed."""

from __future__ import annotations

import logging
from typing import Any

import orjson
import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from cloud_ingest.errors import CloudError

_log = logging.getLogger(__name__)
_TYPE = "urn:metercarbon:problem:"
MEDIA_TYPE = "application/problem+json"


class ApiError(CloudError):
    """A request can't be answered.

    Attributes
    ----------
    status
        HTTP status.
    kind
        Last part of the problem's type, such as ``bad-parameter``.
    title
        What kind of problem it is, in words.
    members
        Further members of the document: parameter, value, allowed.
    """

    status = 500
    kind = "internal"
    title = "The server failed"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.members = members


class ParameterError(ApiError):
    """A parameter has a value that is not allowed."""

    status = 422
    kind = "bad-parameter"
    title = "A parameter is not allowed"

    def __init__(self, parameter: str, value: Any, allowed: str) -> None:
        super().__init__(
            f"{parameter} {value!r:.200} is not allowed; allowed: {allowed}",
            parameter=parameter,
            value=value,
            allowed=allowed,
        )


class NotFoundError(ApiError):
    """Something named in the request does not exist."""

    status = 404
    kind = "not-found"
    title = "There is no such thing"

    def __init__(self, parameter: str, value: Any, allowed: str) -> None:
        super().__init__(
            f"{parameter} {value!r:.200} is unknown; {allowed}", parameter=parameter, value=value, allowed=allowed
        )


class UnavailableError(ApiError):
    """The database does not answer, or is not ready for this program."""

    status = 503
    kind = "unavailable"
    title = "The database is not available"


class TooSlowError(ApiError):
    """A query took longer than the API allows."""

    status = 503
    kind = "too-slow"
    title = "The query took too long"


def problem(status: int, kind: str, title: str, detail: str, members: dict[str, Any] | None = None) -> Response:
    """Response with a problem document."""
    document = {"type": _TYPE + kind, "title": title, "status": status, "detail": detail, **(members or {})}
    return Response(orjson.dumps(document, default=repr), status, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem document."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(psycopg.Error, _on_database_error)
    app.add_exception_handler(Exception, _on_failure)


def _on_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return problem(error.status, error.kind, error.title, str(error), error.members)


def _on_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = []
    for one in error.errors():
        name = ".".join(str(step) for step in one["loc"][1:]) or str(one["loc"][0])
        message = str(one["msg"]).removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            message = "no such parameter; /docs lists those that exist"
        found.append({"parameter": name, "value": one.get("input"), "allowed": message})
    first = found[0]
    detail = "; ".join(f"{one['parameter']} {one['value']!r:.200}: {one['allowed']}" for one in found)
    return problem(422, ParameterError.kind, ParameterError.title, detail, {**first, "problems": found})


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return problem(404, "no-route", "There is no such route", f"no route {request.url.path}; /docs lists them all")
    return problem(error.status_code, "http", str(error.detail), f"{request.method} {request.url.path}: {error.detail}")


def _on_database_error(request: Request, error: Exception) -> Response:
    if isinstance(error, psycopg.errors.QueryCanceled):
        detail = "the query took longer than the API allows; ask for a shorter range, fewer points or a smaller limit"
        return problem(TooSlowError.status, TooSlowError.kind, TooSlowError.title, detail)
    if isinstance(error, psycopg.DataError):
        detail = f"a parameter has a value that can't be: {str(error).splitlines()[0]}"
        return problem(ParameterError.status, ParameterError.kind, ParameterError.title, detail)
    if isinstance(error, psycopg.OperationalError):
        _log.warning("%s: the database is not available: %s", request.url.path, error)
        return problem(UnavailableError.status, UnavailableError.kind, UnavailableError.title, "try again shortly")
    return _on_failure(request, error)


def _on_failure(request: Request, error: Exception) -> Response:
    _log.error("%s failed", request.url.path, exc_info=error)
    return problem(ApiError.status, ApiError.kind, ApiError.title, "the server's log has the cause")
