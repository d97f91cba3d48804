"""Dated factors with their source and status: fuels, grids, heat, processes, standard coal.

Kinds are typed and never mixed: a life-cycle footprint or an emissions-trading factor of the grid is not a
scope 2 factor. An unknown substance, region or (under the policy "exact") year is an error that lists what
exists, never a default. Tables are in ``data/``; `Library.version` is the digest of all of them, and every
factor carries it.
"""

from __future__ import annotations

from accounting.factors.factor import GRID_KINDS, POLICIES, Factor, Kind, Policy
from accounting.factors.library import Library, fuel_factor, grid_factor, library

__all__ = ["GRID_KINDS", "POLICIES", "Factor", "Kind", "Library", "Policy", "fuel_factor", "grid_factor", "library"]
