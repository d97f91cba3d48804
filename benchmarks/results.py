"""What a benchmark hands back, and the file of all results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson


@dataclass(frozen=True, slots=True)
class Result:
    """One figure.

    Attributes
    ----------
    value, unit
        The figure.
    ratio
        The figure divided by the one that it is compared with, of the same run; None where there is none.
    against
        What it is compared with, and that figure.
    """

    value: float
    unit: str
    ratio: float | None = None
    against: str | None = None


Results = dict[str, Result]


def compared(value: float, unit: str, other: float, what: str) -> Result:
    """A figure beside another of the same unit."""
    return Result(value, unit, value / other, f"{what}: {rounded(other):,g} {unit}")


def median(values: Sequence[float]) -> float:
    """Median of repeats."""
    return float(statistics.median(values))


def rounded(value: float) -> float:
    """Four significant digits: more is noise."""
    return float(f"{value:.4g}")


def write(path: Path, results: Mapping[str, Result]) -> None:
    """Write results as JSON: name to value, unit, ratio, against."""
    document = {
        name: {
            **asdict(result),
            "value": rounded(result.value),
            "ratio": None if result.ratio is None else rounded(result.ratio),
        }
        for name, result in results.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def read(path: Path) -> Results:
    """Read what `write` wrote."""
    return {name: Result(**fields) for name, fields in orjson.loads(path.read_bytes()).items()}
