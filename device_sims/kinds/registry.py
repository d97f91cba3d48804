"""The kinds that exist, by name: every module of this package that has a ``KIND``."""

from __future__ import annotations

import importlib
import pkgutil

from device_sims import kinds
from device_sims.kinds.base import Kind, ServerKind

_NOT_KINDS = frozenset({"base", "registry"})
_FOUND: tuple[Kind | ServerKind, ...] = tuple(
    importlib.import_module(f"{kinds.__name__}.{module.name}").KIND
    for module in pkgutil.iter_modules(kinds.__path__)
    if module.name not in _NOT_KINDS
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _FOUND if isinstance(kind, Kind)}
"""Kinds of devices with registers."""

SERVER_KINDS: dict[str, ServerKind] = {kind.name: kind for kind in _FOUND if isinstance(kind, ServerKind)}
"""Kinds of devices with named variables."""
