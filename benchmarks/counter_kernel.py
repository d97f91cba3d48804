"""The counter kernel on one thread, against the memory stream of its own arrays, and against polars.

A reading is 16 bytes (time and value). The stream sums both arrays with numpy on one thread: what looks at
every reading can hardly be faster. The polars expression, on all threads, gives 15-minute use exact at the
edges by the readings next to each edge, and makes sure that the counter never falls; it knows no gaps,
rollovers or transients.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from accounting.kernels.counter import counter_use
from benchmarks.errors import BenchmarkError
from benchmarks.results import Results, compared, median

READINGS = 8_000_000
REPEATS = 5
INTERVAL_US = 10_000_000
BASE_US = 900_000_000
"""Edges every 15 minutes."""
START_US = 1_655_136_000_000_000
GAP_LIMIT_US = 60_000_000
RESOLUTION = 0.001
MAX_RATE_PER_H = 5_000.0
INCIDENTS = 0.01
"""Share of readings that are 0 for once."""

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def run(_directory: Path, readings: int = READINGS, repeats: int = REPEATS) -> Results:
    """Clean readings, and the same with incidents."""
    times, values, edges = counter(readings)
    kernel_s = _median_s(lambda: _kernel(times, values, edges), repeats)
    stream_s = _median_s(lambda: (times.sum(), values.sum()), repeats)
    frame = pl.DataFrame({"at": times, "value": values})
    polars_s = _median_s(lambda: polars_use(frame, edges), max(1, repeats // 2))
    _agree(times, values, edges, frame)
    spoiled = with_incidents(values)
    incidents_s = _median_s(lambda: _kernel(times, spoiled, edges), repeats)
    unit = "readings/s"
    rate = readings / kernel_s
    return {
        "counter_kernel.clean.to_memory": compared(rate, unit, readings / stream_s, "numpy sum of both arrays"),
        "counter_kernel.clean.to_polars": compared(rate, unit, readings / polars_s, "polars, all its threads"),
        "counter_kernel.incidents": compared(readings / incidents_s, unit, rate, "the same without incidents"),
    }


def counter(readings: int) -> tuple[Times, Values, Times]:
    """A counter that only rises: times, values, and the edges of its 15-minute intervals."""
    random = np.random.default_rng(2)
    times = START_US + np.arange(readings, dtype=np.int64) * INTERVAL_US
    times += random.integers(0, INTERVAL_US // 2, readings)
    values: Values = np.cumsum(random.integers(0, 5_000, readings)) * np.float64(RESOLUTION)
    last_us = int(times[-1])
    edges = np.arange(START_US + BASE_US, last_us, BASE_US, dtype=np.int64)
    return times, values, edges


def with_incidents(values: Values) -> Values:
    """The same values with zeros among them, none of them first or last."""
    spoiled = values.copy()
    random = np.random.default_rng(3)
    spoiled[1 + random.choice(len(values) - 2, int(len(values) * INCIDENTS), replace=False)] = 0.0
    return spoiled


def polars_use(frame: pl.DataFrame, edges: Times) -> Values:
    """Use between edges [unit], straight between the two readings next to each edge."""
    if not frame.select((pl.col("value").diff() >= 0).all()).item():
        raise BenchmarkError("the counter falls")
    at = pl.DataFrame({"edge": edges})
    sides = at.join_asof(frame, left_on="edge", right_on="at", strategy="backward", coalesce=False).join_asof(
        frame, left_on="edge", right_on="at", strategy="forward", suffix="_next", coalesce=False
    )
    share = (pl.col("edge") - pl.col("at")) / (pl.col("at_next") - pl.col("at"))
    level = pl.col("value") + (pl.col("value_next") - pl.col("value")) * share.fill_nan(0.0)
    return sides.select(level.diff().slice(1)).to_series().to_numpy()


def _kernel(times: Times, values: Values, edges: Times) -> npt.NDArray[np.int64]:
    return counter_use(
        times,
        values,
        edges,
        resolution=RESOLUTION,
        gap_limit_us=GAP_LIMIT_US,
        max_rate_per_h=MAX_RATE_PER_H,
    ).use


def _agree(times: Times, values: Values, edges: Times, frame: pl.DataFrame) -> None:
    """Both must have done the same work."""
    apart = np.abs(_kernel(times, values, edges) * RESOLUTION - polars_use(frame, edges)).max()
    if apart > 2 * RESOLUTION:
        raise BenchmarkError(f"kernel and polars differ by {apart}; allowed: {2 * RESOLUTION}")


def _median_s(work: Callable[[], object], repeats: int) -> float:
    """Median time of one call [s], after one that is not counted (compilation, page faults)."""
    work()
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return median(taken)
