"""Keyset cursors: opaque texts that say after which row the next page starts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import orjson

from cloud_ingest.api.errors import ParameterError

_ALLOWED = "the `next` of an earlier page of the same query"


def encode(route: str, key: Sequence[Any]) -> str:
    """Cursor of a route from the key of the last row given."""
    return base64.urlsafe_b64encode(orjson.dumps([route, *key])).decode().rstrip("=")


def decode(route: str, cursor: str, types: Sequence[type]) -> tuple[Any, ...]:
    """Key in a cursor.

    Parameters
    ----------
    route
        The one that made it.
    cursor
        From the request.
    types
        Of the key's parts.

    Raises
    ------
    ParameterError
        If it is not a cursor of this route.
    """
    try:
        document = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError) as error:
        raise ParameterError("cursor", cursor, _ALLOWED) from error
    if not isinstance(document, list) or len(document) != len(types) + 1 or document[0] != route:
        raise ParameterError("cursor", cursor, _ALLOWED)
    key = tuple(document[1:])
    if any(type(part) is not expected for part, expected in zip(key, types, strict=True)):
        raise ParameterError("cursor", cursor, _ALLOWED)
    return key
