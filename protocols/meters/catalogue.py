"""The meter models that ship with the product: one TOML file each in `models`.

A file is read and checked when its model is first asked for, and kept.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from protocols import config
from protocols.errors import CatalogueError
from protocols.meters.schema import MeterModel

_FOLDER = resources.files("protocols.meters") / "models"
_SUFFIX = ".toml"


@cache
def _names() -> tuple[str, ...]:
    files = (entry.name for entry in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


def names() -> list[str]:
    """Names of all models, sorted."""
    return list(_names())


@cache
def model(name: str) -> MeterModel:
    """Look a model up.

    Raises
    ------
    CatalogueError
        If there is none of that name (the message lists those that exist), or its file is wrong.
    """
    if name not in _names():
        raise CatalogueError(f"meter model {name!r} is unknown; known: {', '.join(_names())}")
    return load(name, (_FOLDER / f"{name}{_SUFFIX}").read_text(encoding="utf-8"))


def load(name: str, text: str) -> MeterModel:
    """Check the text of a model file.

    Parameters
    ----------
    name
        Stem of the file.
    text
        Its content.

    Raises
    ------
    CatalogueError
        With every problem found: file, field, value, what is allowed.
    """
    file = f"{name}{_SUFFIX}"
    try:
        found = config.parse(text, MeterModel, file, {})
    except config.ConfigError as error:
        raise CatalogueError(str(error)) from error
    if found.name != name:
        raise CatalogueError(f"{file}: name {found.name!r} is not the file's; allowed: {name!r}")
    return found
