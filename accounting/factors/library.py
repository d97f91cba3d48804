"""Looks factors up: the one asked for, or an error that lists what exists."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cache

from accounting.errors import UnknownFactorError
from accounting.factors import tables
from accounting.factors.factor import POLICIES, Factor, Kind, Policy


class Library:
    """All factors of a set of tables.

    Parameters
    ----------
    files
        Tables by file name, as `accounting.factors.tables.read` wants them; a plant's own table of
        overrides, with its reasons, would come in here.

    Attributes
    ----------
    version
        Digest of the tables.
    factors
        All factors, in the tables' order.
    regions
        Regions that grid factors may be asked for.
    """

    def __init__(self, files: tables.Files) -> None:
        self.version = tables.version(files)
        self.factors, self.regions = tables.read(files)

    def region(self, name: str) -> str:
        """A region's own name from its own or its English name.

        Raises
        ------
        UnknownFactorError
            Listing the regions that exist.
        """
        for region in self.regions:
            if name == region.name or name.casefold() == region.english.casefold():
                return region.name
        known = ", ".join(f"{region.name} ({region.english})" for region in self.regions)
        raise UnknownFactorError(f"region {name!r} is unknown; known: {known}")

    def grid(self, region: str, year: int, policy: Policy = "exact", kind: Kind = Kind.GRID_LOCATION) -> Factor:
        """Factor of electricity from the grid of a region.

        Parameters
        ----------
        region
            Name of the region; never replaced by a larger one.
        year
            Year of use.
        policy
            "exact": that year's factor. "latest-published": that year's, else the latest earlier year's,
            marked provisional.
        kind
            Which of the grid's factors; each serves another purpose.

        Raises
        ------
        UnknownFactorError
            If there is none; the message lists the years or regions there are.
        """
        if policy not in POLICIES:
            raise UnknownFactorError(f"factor policy {policy!r} is unknown; known: {', '.join(POLICIES)}")
        name = self.region(region)
        of_kind = [f for f in self.factors if f.kind is kind and f.substance == "electricity"]
        dated = {f.year: f for f in of_kind if f.region == name and f.year is not None}
        if year in dated:
            return dated[year]
        earlier = [known for known in dated if known < year]
        if policy == "latest-published" and earlier:
            return dataclasses.replace(dated[max(earlier)], provisional=True)
        if dated:
            years = ", ".join(str(y) for y in sorted(dated))
            raise UnknownFactorError(
                f"no {kind.value!r} factor of {name} for {year} under policy {policy!r}; years there are: {years}"
            )
        regions = ", ".join(dict.fromkeys(f.region for f in of_kind)) or "none"
        raise UnknownFactorError(f"no {kind.value!r} factor of {name}; regions there are: {regions}")

    def fuel(self, name: str) -> Factor:
        """CO₂ of burning a fuel, from heating value × carbon content × oxidation × 44/12.

        Raises
        ------
        UnknownFactorError
            Listing the fuels that exist.
        """
        return self._undated(Kind.FUEL, name)

    def heat(self) -> Factor:
        """CO₂ of purchased heat."""
        return self._undated(Kind.HEAT, "heat")

    def process(self, name: str) -> Factor:
        """CO₂ of a process itself, such as the calcination of clinker.

        Raises
        ------
        UnknownFactorError
            Listing the processes that exist.
        """
        return self._undated(Kind.PROCESS, name)

    def select(self, kinds: Iterable[Kind] = (), region: str | None = None, year: int | None = None) -> list[Factor]:
        """Factors of some kinds that hold in a region and year; undated and regionless ones hold in all.

        Raises
        ------
        UnknownFactorError
            If the region is unknown.
        """
        name = None if region is None else self.region(region)
        wanted = tuple(kinds) or tuple(Kind)
        return [
            f
            for f in self.factors
            if f.kind in wanted
            and (name is None or f.region in ("", name))
            and (year is None or f.year in (None, year))
        ]

    def _undated(self, kind: Kind, name: str) -> Factor:
        of_kind = [f for f in self.factors if f.kind is kind]
        for factor in of_kind:
            if factor.substance == name:
                return factor
        raise UnknownFactorError(
            f"no {kind.value!r} factor of {name!r}; there are: {', '.join(f.substance for f in of_kind)}"
        )


@cache
def library() -> Library:
    """The library that comes with this package; read once."""
    return Library(tables.shipped())


def grid_factor(region: str, year: int, policy: Policy = "exact", kind: Kind = Kind.GRID_LOCATION) -> Factor:
    """See `Library.grid`; of the tables that come with this package."""
    return library().grid(region, year, policy, kind)


def fuel_factor(name: str) -> Factor:
    """See `Library.fuel`; of the tables that come with this package."""
    return library().fuel(name)
