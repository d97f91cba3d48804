"""The edge agent: polls meters, buffers on disk, publishes, frees what the store has committed."""

from __future__ import annotations

from importlib import metadata

try:
    VERSION = metadata.version("metercarbon")
except metadata.PackageNotFoundError:
    VERSION = "0+source"
"""Version of the installed product; run from a source tree it has none."""

SOFTWARE = f"edge-agent {VERSION}"
"""How the agent names itself in its session record."""
