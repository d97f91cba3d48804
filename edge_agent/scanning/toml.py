"""Fragments of `agent.toml`: what a scan found, as a configuration that passes `check-config`.

Put beside ``[agent]``, ``[buffer]`` and ``[mqtt]``. What a scan cannot know is commented out, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edge_agent.config import Connection
from edge_agent.toml import string

HEAD = "# Made by a scan; to be put beside [agent], [buffer] and [mqtt], see `edge-agent print-config`."


def expands(text: str) -> bool:
    """Whether a string would be taken for one with an environment variable in it."""
    return "${" in text


def connection(settings: Connection, leave_out: Iterable[str] = ()) -> list[str]:
    """Lines of a connection: what was given, not the defaults."""
    given = settings.model_dump(exclude_unset=True, exclude=set(leave_out), exclude_none=True)
    return ["[[connection]]", *keys(given)]


def keys(values: Mapping[str, Any]) -> list[str]:
    """One line a key."""
    return [f"{key} = {_value(value)}" for key, value in values.items()]


def commented(lines: Iterable[str]) -> list[str]:
    """The same lines as comments."""
    return [f"# {line}".rstrip() for line in lines]


def comment(text: str) -> str:
    """A comment of one line, whatever the text."""
    return "# " + "".join(letter if letter.isprintable() else " " for letter in text)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        return string(str(value))
    if isinstance(value, Mapping):
        return "{ " + ", ".join(keys(value)) + " }"
    return repr(value)
