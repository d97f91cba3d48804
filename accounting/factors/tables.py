"""Reads the factor tables and refuses what cannot be right.

Invariants of what it returns: every value lies in the range of its kind and unit, no key occurs twice,
regions are known, and a fuel's factor follows from its heating value, carbon content and oxidation to the
digits printed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

from accounting.errors import FactorTableError
from accounting.factors.factor import Factor, Kind

_RANGES: dict[tuple[Kind, str], tuple[float, float]] = {
    (Kind.FUEL, "tCO2/t"): (0.5, 4.0),
    (Kind.FUEL, "tCO2/1e4m3"): (1.0, 40.0),
    (Kind.GRID_LOCATION, "kgCO2/kWh"): (0.01, 1.3),
    (Kind.GRID_RESIDUAL, "kgCO2/kWh"): (0.01, 1.3),
    (Kind.GRID_FOSSIL, "kgCO2/kWh"): (0.3, 1.3),
    (Kind.GRID_LIFE_CYCLE, "kgCO2e/kWh"): (0.01, 1.5),
    (Kind.ETS, "tCO2/MWh"): (0.01, 1.3),
    (Kind.HEAT, "tCO2/GJ"): (0.03, 0.2),
    (Kind.PROCESS, "tCO2/t"): (0.001, 5.0),
    (Kind.PROCESS, "tCO2/t clinker"): (0.2, 0.6),
    (Kind.COAL_EQUIVALENT, "kgce/kWh"): (0.1, 0.45),
    (Kind.COAL_EQUIVALENT, "kgce/kg"): (0.05, 2.0),
    (Kind.COAL_EQUIVALENT, "kgce/m3"): (0.01, 1.5),
    (Kind.COAL_EQUIVALENT, "kgce/MJ"): (0.03, 0.04),
    (Kind.COAL_EQUIVALENT, "kgce/t"): (0.05, 2.0),
    (Kind.LIMIT, "kgce/t"): (10.0, 300.0),
    (Kind.LIMIT, "kWh/t"): (5.0, 200.0),
    (Kind.PRICE, "yuan/t"): (1.0, 1000.0),
    (Kind.ENERGY_CONTENT, "MJ/kgce"): (29.0, 30.0),
}
_FUEL_UNITS = {"GJ/t": "tCO2/t", "GJ/1e4m3": "tCO2/1e4m3"}
_FUEL_RANGES = {
    ("ncv", "GJ/t"): (5.0, 60.0),
    ("ncv", "GJ/1e4m3"): (20.0, 500.0),
    ("carbon_tC_per_TJ", ""): (10.0, 80.0),
    ("oxidation", ""): (0.8, 1.0),
}
_PRINTED_DIGIT = 0.5e-4
_CO2_PER_CARBON = 44 / 12
_STATUSES = ("seen", "recalled")

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Region:
    """A region that grid factors are published for."""

    name: str
    english: str
    level: str


def shipped() -> dict[str, bytes]:
    """The tables that come with this package, by file name."""
    folder = resources.files("accounting.factors") / "data"
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir(), key=lambda f: f.name) if f.name.endswith(".csv")}


def version(files: Files) -> str:
    """Digest of all tables: 12 hex digits that change when anything in them does."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()[:12]


def read(files: Files) -> tuple[tuple[Factor, ...], tuple[Region, ...]]:
    """Read and check all tables.

    Raises
    ------
    FactorTableError
        Naming the file, the line, the value and what is allowed.
    """
    digest = version(files)
    regions = tuple(
        Region(row["name"], row["english"], row["level"]) for _, row in _rows(files["regions.csv"], "regions.csv")
    )
    known = {region.name for region in regions}
    factors: dict[tuple[object, ...], Factor] = {}
    for name in sorted(files):
        if name == "regions.csv":
            continue
        make = _fuel if name == "fuels.csv" else _plain
        for where, row in _rows(files[name], name):
            factor = make(row, where, digest)
            if factor.region and factor.region not in known:
                raise FactorTableError(f"{where}: region {factor.region!r} is not in regions.csv")
            key = (factor.kind, factor.substance, factor.region, factor.basis, factor.year)
            if key in factors:
                raise FactorTableError(f"{where}: a second row for {', '.join(str(k) for k in key if k)}; allowed: one")
            factors[key] = factor
    return tuple(factors.values()), regions


def _rows(content: bytes, file: str) -> Iterator[tuple[str, dict[str, str]]]:
    for number, row in enumerate(csv.DictReader(io.StringIO(content.decode("utf-8"))), 2):
        where = f"{file}:{number}"
        if None in row or None in row.values():
            raise FactorTableError(f"{where}: {len(row)} fields; allowed: one for each column of the header")
        yield where, row


def _number(row: Mapping[str, str], column: str, where: str, allowed: tuple[float, float]) -> float:
    try:
        value = float(row[column])
    except ValueError as error:
        raise FactorTableError(f"{where}: {column} {row[column]!r} is not a number") from error
    low, high = allowed
    if not low <= value <= high:
        raise FactorTableError(f"{where}: {column} {value:g} is out of range; allowed: {low:g} to {high:g}")
    return value


def _status(row: Mapping[str, str], where: str) -> str:
    if not row["status"].startswith(_STATUSES):
        raise FactorTableError(f"{where}: status {row['status']!r}; allowed: {', '.join(_STATUSES)}, with a remark")
    if not row["source"]:
        raise FactorTableError(f"{where}: no source; allowed: the document it was read in")
    return row["status"]


def _plain(row: Mapping[str, str], where: str, digest: str) -> Factor:
    try:
        kind = Kind(row["kind"])
    except ValueError as error:
        raise FactorTableError(f"{where}: kind {row['kind']!r}; allowed: {', '.join(Kind)}") from error
    allowed = _RANGES.get((kind, row["unit"]))
    if allowed is None:
        units = ", ".join(unit for other, unit in _RANGES if other is kind)
        raise FactorTableError(f"{where}: unit {row['unit']!r} does not fit kind {kind.value!r}; allowed: {units}")
    return Factor(
        kind=kind,
        substance=row["substance"],
        value=_number(row, "value", where, allowed),
        unit=row["unit"],
        region=row["region"],
        basis=row["basis"],
        year=int(_number(row, "year", where, (1990, 2100))) if row["year"] else None,
        source=row["source"],
        published=row["published"],
        status=_status(row, where),
        version=digest,
    )


def _fuel(row: Mapping[str, str], where: str, digest: str) -> Factor:
    """Heating value × carbon content × oxidation × 44/12, which must print as the table's own factor."""
    unit = _FUEL_UNITS.get(row["ncv_unit"])
    if unit is None or unit != row["ef_unit"]:
        pairs = "; ".join(f"{ncv} with {ef}" for ncv, ef in _FUEL_UNITS.items())
        raise FactorTableError(f"{where}: units {row['ncv_unit']!r} and {row['ef_unit']!r}; allowed: {pairs}")
    heating = _number(row, "ncv", where, _FUEL_RANGES["ncv", row["ncv_unit"]])
    carbon = _number(row, "carbon_tC_per_TJ", where, _FUEL_RANGES["carbon_tC_per_TJ", ""])
    oxidation = _number(row, "oxidation", where, _FUEL_RANGES["oxidation", ""])
    printed = _number(row, "ef", where, _RANGES[Kind.FUEL, unit])
    value = heating * carbon / 1000 * oxidation * _CO2_PER_CARBON
    if not math.isclose(value, printed, rel_tol=0.0, abs_tol=_PRINTED_DIGIT):
        raise FactorTableError(f"{where}: ef {printed:g} does not follow from ncv, carbon and oxidation ({value:.5f})")
    return Factor(
        kind=Kind.FUEL,
        substance=row["fuel"],
        value=value,
        unit=unit,
        source=row["source"],
        published=row["published"],
        status=_status(row, where),
        version=digest,
    )
