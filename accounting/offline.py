"""Accounts from a file of readings: the same kernels and combinations as anywhere else, as one table.

Readings have the columns ``point`` (device/tag), ``at`` (µs UTC, a time with zone, or ISO 8601 text with
offset), ``value`` and optionally ``quality`` (a code below 128; 66 says the time is not known). Rows without
a value, of bad quality or of unknown time are left out; of two rows of one point at one time the later in
the file counts. A second table may describe points: ``point``, and any of ``unit_factor`` (canonical units
in one unit of the counter), ``gap_limit_s``, ``modulus``, ``max_rate_per_h`` and ``step``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from accounting import carriers, intervals, series
from accounting.account import Account, account
from accounting.errors import ReadingsError
from accounting.factors import Factor
from accounting.intervals import Int64s, Level
from accounting.kernels.counter import Flag, counter_use
from accounting.model import Plant
from accounting.series import Float64s, Series
from accounting.unit_use import unit_use

_FIRST_BAD = 128
_UNCERTAIN_TIME = 66
_US = 1_000_000
_OFFSET = r"T.*(Z|[+-]\d\d:?\d\d)$"

_POINT_COLUMNS = ("unit_factor", "gap_limit_s", "modulus", "max_rate_per_h", "step")

SCHEMA: dict[str, pl.DataType] = {
    "process": pl.String(),
    "level": pl.String(),
    "from": pl.Datetime("us", "UTC"),
    "until": pl.Datetime("us", "UTC"),
    "carrier": pl.String(),
    "use": pl.Float64(),
    "unit": pl.String(),
    "coverage": pl.Float64(),
    "estimated_share": pl.Float64(),
    "flags": pl.String(),
    "product": pl.String(),
    "output": pl.Float64(),
    "output_unit": pl.String(),
    "output_coverage": pl.Float64(),
    "unit_use": pl.Float64(),
    "co2_kg": pl.Float64(),
    "co2_kg_per_output": pl.Float64(),
    "factor": pl.Float64(),
    "factor_unit": pl.String(),
    "factor_kind": pl.String(),
    "factor_year": pl.Int64(),
    "factor_status": pl.String(),
    "factor_version": pl.String(),
    "provisional": pl.Boolean(),
    "note": pl.String(),
}
"""Columns of the result."""


@dataclass(frozen=True, slots=True)
class _Counter:
    """How a point is read; see the module's text."""

    unit_factor: float = 1.0
    gap_limit_s: float = 900.0
    modulus: float | None = None
    max_rate_per_h: float | None = None
    step: float = 0.0


def accounts(plant: Plant, readings: pl.DataFrame, points: pl.DataFrame | None, level: Level) -> pl.DataFrame:
    """Accounts of every process over the days or hours that the readings touch.

    Parameters
    ----------
    plant
        The plant model.
    readings, points
        See the module's text.
    level
        Length of the intervals.

    Raises
    ------
    ReadingsError
        If a column is missing or of the wrong type, or no reading is valid.
    AccountingError
        If a counter's readings or description can't be used.
    """
    valid = _valid(readings)
    counters = _counters(points)
    first, last = int(valid["at"][0]), int(valid["at"][-1])
    longer = intervals.edges(level, first, last + 1, plant.site.timezone)
    base = intervals.edges("base", int(longer[0]), int(longer[-1]), plant.site.timezone)
    used: dict[str, Series] = {}
    for (point,), rows in valid.filter(pl.col("point").is_in(sorted(plant.points()))).group_by("point"):
        name = str(point)
        used[name] = _used(name, rows, counters.get(name, _Counter()), base)
    rows_of = [
        row
        for process in plant.processes
        for row in _rows(plant, account(plant, process.name, used, base).longer(longer, plant.site.timezone), level)
    ]
    return pl.DataFrame(rows_of, schema=SCHEMA)


def read_table(path: Path) -> pl.DataFrame:
    """Read a CSV or Parquet file.

    Raises
    ------
    ReadingsError
        If it can't be read, or is neither.
    """
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        if path.suffix == ".csv":
            return pl.read_csv(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ReadingsError(f"{path}: can't be read: {error}") from error
    raise ReadingsError(f"{path}: suffix {path.suffix!r} is not allowed; allowed: .csv, .parquet")


def write_table(table: pl.DataFrame, path: Path | None) -> None:
    """Write a table as the path's suffix says; without a path as CSV to standard output.

    Raises
    ------
    ReadingsError
        If the suffix is unknown or the file can't be written.
    """
    if path is None:
        sys.stdout.write(table.write_csv())
        return
    try:
        if path.suffix == ".csv":
            table.write_csv(path)
        elif path.suffix == ".json":
            table.write_json(path)
        elif path.suffix == ".parquet":
            table.write_parquet(path)
        else:
            raise ReadingsError(f"{path}: suffix {path.suffix!r} is not allowed; allowed: .csv, .json, .parquet")
    except OSError as error:
        raise ReadingsError(f"{path}: can't be written: {error}") from error


def _valid(readings: pl.DataFrame) -> pl.DataFrame:
    """Valid readings in order of time: point, at [µs UTC], value."""
    for column in ("point", "at", "value"):
        if column not in readings.columns:
            raise ReadingsError(f"readings have no column {column!r}; columns are {', '.join(readings.columns)}")
    if not readings["value"].dtype.is_numeric():
        raise ReadingsError(f"column 'value' is {readings['value'].dtype}; allowed: numbers")
    wanted = pl.col("value").is_finite()
    if "quality" in readings.columns:
        quality = pl.col("quality").fill_null(0)
        wanted &= (quality < _FIRST_BAD) & (quality != _UNCERTAIN_TIME)
    valid = (
        readings.with_columns(_times(readings["at"]), pl.col("value").cast(pl.Float64))
        .filter(wanted)
        .unique(["point", "at"], keep="last", maintain_order=True)
        .select("point", "at", "value")
        .sort("at")
    )
    if valid.is_empty():
        raise ReadingsError(f"none of {readings.height} readings is valid; allowed: at least one")
    return valid


def _times(at: pl.Series) -> pl.Series:
    """Times as µs UTC."""
    try:
        if at.dtype == pl.String:
            without = at.filter(~at.str.contains(_OFFSET).fill_null(value=False))
            if len(without):
                raise ReadingsError(f"column 'at' has {without[0]!r}; allowed: ISO 8601 with offset")
            at = at.str.to_datetime(time_unit="us", time_zone="UTC", strict=True)
        if isinstance(at.dtype, pl.Datetime) and at.dtype.time_zone is not None:
            return at.dt.timestamp("us")
    except pl.exceptions.PolarsError as error:
        raise ReadingsError(f"column 'at': {error}") from error
    if at.dtype == pl.Int64:
        return at
    raise ReadingsError(f"column 'at' is {at.dtype}; allowed: µs UTC, times with zone, ISO 8601 text with offset")


def _counters(points: pl.DataFrame | None) -> dict[str, _Counter]:
    if points is None:
        return {}
    unknown = sorted(set(points.columns) - {"point", *_POINT_COLUMNS})
    if "point" not in points.columns or unknown:
        raise ReadingsError(
            f"points have columns {', '.join(points.columns)}; allowed: point, {', '.join(_POINT_COLUMNS)}"
        )
    return {
        row.pop("point"): _Counter(**{name: float(value) for name, value in row.items() if value is not None})
        for row in points.iter_rows(named=True)
    }


def _used(name: str, rows: pl.DataFrame, counter: _Counter, base: Int64s) -> Series:
    resolution = series.resolution_for(counter.unit_factor)
    use = counter_use(
        rows["at"].to_numpy(),
        rows["value"].to_numpy(),
        base,
        resolution=resolution,
        gap_limit_us=round(counter.gap_limit_s * _US),
        modulus=counter.modulus,
        max_rate_per_h=counter.max_rate_per_h,
        step=counter.step,
    )
    return Series.of_counter(use, base, resolution=resolution, unit_factor=counter.unit_factor)


def _rows(plant: Plant, result: Account, level: Level) -> Iterator[dict[str, Any]]:
    """One row per interval, carrier and product; without outputs one per interval and carrier."""
    edges = [datetime.fromtimestamp(edge / _US, UTC) for edge in result.edges_us.tolist()]
    for carrier, use in result.uses.items():
        about_use = {
            "use": use.values,
            "coverage": use.coverage,
            "estimated_share": use.estimated_share,
            **({"co2_kg": result.co2[carrier].values} if carrier in result.co2 else {}),
        }
        for product in result.outputs or (None,):
            figures = about_use if product is None else about_use | _per_output(result, carrier, product)
            for n in range(len(edges) - 1):
                row: dict[str, Any] = {
                    "process": result.process,
                    "level": level,
                    "from": edges[n],
                    "until": edges[n + 1],
                    "carrier": carrier,
                    "unit": carriers.carrier(carrier).unit,
                    "flags": " ".join(name.lower() for flag in Flag(int(use.flags[n])) if (name := flag.name)),
                    "product": product,
                    "output_unit": None if product is None else plant.product(product).unit,
                    "note": result.missing_factors.get(carrier, {}).get(int(result.years[n])),
                }
                for name, values in figures.items():
                    row[name] = None if np.isnan(values[n]) else float(values[n])
                factor = result.factor(carrier, n)
                yield row if factor is None else row | _about_factor(factor)


def _per_output(result: Account, carrier: str, product: str) -> dict[str, Float64s]:
    output = result.outputs[product]
    figures = {
        "output": output.values,
        "output_coverage": output.coverage,
        "unit_use": result.unit_use(carrier, product).value,
    }
    if carrier in result.co2:
        figures["co2_kg_per_output"] = unit_use(result.co2[carrier], output).value
    return figures


def _about_factor(factor: Factor) -> dict[str, Any]:
    return {
        "factor": factor.value,
        "factor_unit": factor.unit,
        "factor_kind": factor.kind.value,
        "factor_year": factor.year,
        "factor_status": factor.status,
        "factor_version": factor.version,
        "provisional": factor.provisional,
    }
