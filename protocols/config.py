"""Configuration documents: TOML text to a typed model, without touching a file or a network.

Strings may name environment variables: ``${NAME}`` or ``${NAME:-default}``; secrets come that way or from
files, never from the document itself. Unknown keys are refused (`Model` forbids them), and an error names
the file, the device (or other named entry), the field, the value and what is allowed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from protocols.errors import ProtocolError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_HIDDEN = re.compile(r"password|secret|token|key", re.IGNORECASE)


class ConfigError(ProtocolError):
    """A configuration is wrong; one problem a line."""


class Model(BaseModel):
    """Base of configuration models: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


def parse(text: str, model: type[M], file: str, environment: Mapping[str, str]) -> M:
    """Parse and check a TOML document.

    Parameters
    ----------
    text
        The document.
    model
        What it must fit.
    file
        Name used in errors.
    environment
        Values for ``${NAME}``.

    Raises
    ------
    ConfigError
        With every problem found, one a line: file, place, value, what is allowed.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    document = _expand(raw, environment, file, ())
    try:
        return model.model_validate(document)
    except ValidationError as error:
        lines = [f"{file}: {line}" for line in problems(error, document)]
        raise ConfigError("\n".join(lines)) from error


def json_schema(model: type[BaseModel]) -> str:
    """JSON Schema of a configuration, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema(by_alias=True)}
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode() + "\n"


def problems(error: ValidationError, document: Any) -> list[str]:
    """One line a problem: where (entries by their name), what is wrong, the value found."""
    lines = []
    for problem in error.errors(include_url=False):
        place = _place(problem["loc"], document)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key; allowed keys are those that print-config shows"
        found = problem["input"]
        show = problem["type"] not in ("value_error", "missing") and not isinstance(found, dict | list | BaseModel)
        value = "***" if _HIDDEN.search(place) else f"{found!r:.80}"
        lines.append(f"{place}: {message}" + (f" (found {value})" if show else ""))
    return lines


def _place(steps: Sequence[int | str], document: Any) -> str:
    """``device 'mill'.tag 'energy'.unit`` for ``('device', 3, 'tag', 0, 'unit')``."""
    parts: list[str] = []
    here = document
    for step in steps:
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            here = None
        if isinstance(step, int):
            name = here.get("name") if isinstance(here, dict) else None
            label = f" {name!r}" if isinstance(name, str) else f"[{step}]"
            if parts:
                parts[-1] += label
            else:
                parts.append(label.strip())
        else:
            parts.append(step)
    return ".".join(parts) or "document"


def _expand(value: Any, environment: Mapping[str, str], file: str, path: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {name: _expand(item, environment, file, (*path, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, environment, file, path) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = environment.get(name, default)
        if found is None:
            raise ConfigError(f"{file}: {'.'.join(path)}: environment variable {name} is not set and has no default")
        return str(found)

    return _VARIABLE.sub(replace, value)
