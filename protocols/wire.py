"""Reading of JSON documents from outside: each helper returns a checked value or says what is wrong."""

from __future__ import annotations

import re
from typing import Any, cast

import orjson

from protocols import topics
from protocols.errors import PayloadError, TopicError
from protocols.reading import BatchKey

_HEX = re.compile(r"[0-9a-f]+")
_INT64 = 2**63


def loads(payload: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise PayloadError(f"{what} is not JSON: {error}") from error
    if type(document) is not dict:
        raise PayloadError(f"{what} is a JSON {type(document).__name__}; allowed: an object")
    return cast("dict[str, Any]", document)


def only(document: dict[str, Any], allowed: set[str], what: str) -> None:
    """Refuse keys that the format does not have."""
    unknown = document.keys() - allowed
    if unknown:
        raise PayloadError(f"{what} has unknown key {min(unknown)!r}; allowed: {', '.join(sorted(allowed))}")


def version(document: dict[str, Any], expected: int, what: str) -> None:
    """Check the format's version."""
    found = document.get("v")
    if type(found) is not int or found != expected:
        raise PayloadError(f"{what} has version {found!r:.80}; allowed: {expected}")


def _get(document: dict[str, Any], name: str, kind: type, what: str) -> Any:
    value = document.get(name)
    if type(value) is not kind:
        raise PayloadError(f"{what}.{name} is {value!r:.80}; allowed: {kind.__name__}")
    return value


def integer(document: dict[str, Any], name: str, what: str, low: int = -_INT64, high: int = _INT64 - 1) -> int:
    """An integer within bounds."""
    value = cast("int", _get(document, name, int, what))
    if not low <= value <= high:
        raise PayloadError(f"{what}.{name} is {value}; allowed: {low} to {high}")
    return value


def text(document: dict[str, Any], name: str, what: str) -> str:
    """A string without NUL, which a database could not store."""
    value = cast("str", _get(document, name, str, what))
    if "\0" in value:
        raise PayloadError(f"{what}.{name} holds a NUL character")
    return value


def boolean(document: dict[str, Any], name: str, what: str) -> bool:
    """True or false."""
    return cast("bool", _get(document, name, bool, what))


def array(document: dict[str, Any], name: str, what: str) -> list[Any]:
    """A list."""
    return cast("list[Any]", _get(document, name, list, what))


def mapping(document: dict[str, Any], name: str, what: str) -> dict[str, Any]:
    """An object."""
    return cast("dict[str, Any]", _get(document, name, dict, what))


def hex_digits(document: dict[str, Any], name: str, length: int, what: str) -> str:
    """A string of `length` lower-case hex digits."""
    value = text(document, name, what)
    if len(value) != length or not _HEX.fullmatch(value):
        raise PayloadError(f"{what}.{name} is {value!r:.80}; allowed: {length} lower-case hex digits")
    return value


def key(document: dict[str, Any], what: str) -> BatchKey:
    """The identity that every message through the buffer carries."""
    try:
        tenant = topics.check_name("tenant", text(document, "tenant", what))
        agent = topics.check_name("agent", text(document, "agent", what))
    except TopicError as error:
        raise PayloadError(f"{what}: {error}") from error
    return BatchKey(tenant, agent, hex_digits(document, "epoch", 32, what), integer(document, "seq", what, low=1))


def ranges(value: Any, what: str) -> tuple[tuple[int, int], ...]:
    """Inclusive, ascending, disjoint ranges ``[[first, last], …]`` of seqs."""
    found: list[tuple[int, int]] = []
    if type(value) is not list:
        raise PayloadError(f"{what} is {value!r:.80}; allowed: a list of [first, last]")
    for pair in value:
        ok = type(pair) is list and len(pair) == 2 and all(type(n) is int and 1 <= n < _INT64 for n in pair)
        if not ok or pair[0] > pair[1] or (found and pair[0] <= found[-1][1]):
            raise PayloadError(f"{what} holds {pair!r:.80}; allowed: ascending disjoint [first, last] from 1")
        found.append((pair[0], pair[1]))
    return tuple(found)
