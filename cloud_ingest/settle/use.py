"""Readings to use per base interval, for exactly the intervals that a change can touch.

Invariants

- Valid readings are those of good or uncertain quality, except where the time itself is uncertain, with a
  finite value that the kernel can hold.
- The result for an interval depends on what is stored alone: it is computed only from a set of readings that
  the kernel says is all it needs (`CounterUse.needs_from_us` … `needs_to_us`). So the order in which readings
  came, and how the work was cut, leave no trace.
- Over a silence longer than the estimate limit nothing is known, however large the difference.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accounting.errors import AccountingError
from accounting.intervals import BASE_US
from accounting.kernels.counter import LARGEST, NO_TIME_AFTER, NO_TIME_BEFORE, Flag, counter_use
from accounting.series import Series
from cloud_ingest.settle.errors import SettleError
from cloud_ingest.settle.plants import Counter
from cloud_ingest.store import readings
from cloud_ingest.store.intervals import Extent, Intervals
from cloud_ingest.store.pool import Connection
from protocols.quality import FIRST_BAD, Quality

_log = logging.getLogger(__name__)
_PARTIAL = int(Flag.PARTIAL_START | Flag.PARTIAL_END)
_MAX_STEPS = 200
_FETCH_READINGS = 2_000_000
"""About how many readings one query fetches."""

Span = tuple[int, int]
"""First and last instant of a change, both included [µs UTC]."""


@dataclass(slots=True)
class _Job:
    """A change of one counter on its way to intervals.

    Attributes
    ----------
    counter
        Which.
    first_us, last_us
        Instants at which the accepted readings may have changed.
    known_first_us, known_last_us
        There is no valid reading outside these.
    edge_first_us, edge_last_us
        Base edges between which use is computed.
    from_us, to_us
        Range that readings are fetched of.
    neighbours
        Whether the nearest valid readings beyond the range are fetched too.
    """

    counter: Counter
    first_us: int
    last_us: int
    known_first_us: int
    known_last_us: int
    edge_first_us: int
    edge_last_us: int
    from_us: int
    to_us: int
    neighbours: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of some changes.

    Attributes
    ----------
    rows
        Base intervals of which something is known.
    empty
        Those of which nothing is known: their point and start.
    extents
        First and last valid reading seen, by point.
    readings
        How many readings were fetched.
    """

    rows: Intervals
    empty: tuple[NDArray[np.int32], NDArray[np.int64]]
    extents: dict[int, Extent]
    readings: int


def merge(spans: Iterable[Span], distance_us: int) -> list[Span]:
    """Spans in order, those no further apart than `distance_us` joined."""
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first - merged[-1][1] <= distance_us:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def compute(conn: Connection, changes: Mapping[Counter, Sequence[Span]], known: Mapping[int, Extent]) -> Result:
    """Compute the base intervals that changed readings can touch.

    Parameters
    ----------
    conn
        Connection.
    changes
        Spans within which readings of a counter were added or changed.
    known
        What is remembered of points; none of a point that was never computed.
    """
    todo: list[_Job] = []
    for counter, spans in changes.items():
        # Valid readings lie where they are known to lie, or where a change says.
        extent = known.get(counter.point_id)
        firsts = [first for first, _ in spans]
        lasts = [last for _, last in spans]
        if extent is not None and extent.first_us is not None and extent.last_us is not None:
            firsts.append(extent.first_us)
            lasts.append(extent.last_us)
        known_span = (min(firsts), max(lasts))
        joined = merge(spans, 8 * counter.gap_limit_us + 2 * BASE_US)
        todo.extend(_job(counter, span, known_span) for span in joined)
    parts: list[Intervals] = []
    empty: list[tuple[int, NDArray[np.int64]]] = []
    extents: dict[int, Extent] = {}
    fetched = 0
    for _ in range(_MAX_STEPS):
        if not todo:
            return Result(_distinct(parts), _flatten(empty), extents, fetched)
        again: list[_Job] = []
        for jobs in _groups(todo):
            head = jobs[0]
            found = readings.fetch(
                conn,
                head.counter.value_type,
                sorted({job.counter.point_id for job in jobs}),
                head.from_us,
                head.to_us,
                neighbour_limit_us=max(job.counter.estimate_limit_us for job in jobs) if head.neighbours else 0,
            )
            fetched += sum(len(series) for series in found.values())
            for job in jobs:
                series = found[job.counter.point_id]
                times, values = _valid(job.counter, series)
                _extend(extents, job.counter, times)
                first_row = int(series.times_us[0]) if len(series) else None
                last_row = int(series.times_us[-1]) if len(series) else None
                if _widen(job, times, first_row, last_row):
                    again.append(job)
                    continue
                try:
                    result = _intervals(job, times, values, first_row, last_row)
                except AccountingError:
                    _log.exception("use of point %s can't be computed", job.counter.name)
                    continue
                if result is None:
                    again.append(job)
                    continue
                rows, gone = result
                parts.append(rows)
                empty.append((job.counter.point_id, gone))
        todo = again
    names = ", ".join(sorted({job.counter.name for job in todo}))
    raise SettleError(f"after {_MAX_STEPS} steps there are still readings to fetch of {names}")


def _job(counter: Counter, span: Span, known: Span) -> _Job:
    gap = counter.gap_limit_us
    # A reading decides whether others up to two gap limits before and one after it are accepted.
    first, last = span[0] - 2 * gap, span[1] + gap
    edge_first, edge_last = _floor(first - 2 * gap), _ceil(last + 2 * gap)
    return _Job(counter, first, last, *known, edge_first, edge_last, edge_first - 2 * gap, edge_last + 3 * gap)


def _groups(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Jobs that one query serves."""
    groups: dict[tuple[str, int, int, bool], list[_Job]] = {}
    for job in jobs:
        job.from_us, job.to_us = _floor(job.from_us), _ceil(job.to_us)
        groups.setdefault((job.counter.value_type, job.from_us, job.to_us, job.neighbours), []).append(job)
    pieces: list[list[_Job]] = []
    for group in groups.values():
        size = _FETCH_READINGS
        for job in group:
            weight = (job.to_us - job.from_us) // job.counter.poll_interval_us + 1
            if size + weight > _FETCH_READINGS:
                pieces.append([])
                size = 0
            pieces[-1].append(job)
            size += weight
    return pieces


def _valid(counter: Counter, series: readings.Series) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Times and values of the readings that count."""
    values = series.as_float()
    with np.errstate(over="ignore", invalid="ignore"):
        good = (
            (series.qualities < FIRST_BAD)
            & (series.qualities != Quality.UNCERTAIN_TIME)
            & (np.abs(values / counter.resolution) <= LARGEST)
        )
    return series.times_us[good], values[good]


def _extend(extents: dict[int, Extent], counter: Counter, times: NDArray[np.int64]) -> None:
    old = extents.get(counter.point_id, Extent(counter.parameters, None, None))
    first, last = old.first_us, old.last_us
    if len(times):
        first = int(times[0]) if first is None else min(first, int(times[0]))
        last = int(times[-1]) if last is None else max(last, int(times[-1]))
    extents[counter.point_id] = Extent(counter.parameters, first, last)


def _left_complete(job: _Job, first_row: int | None) -> bool:
    """Whether no valid reading before `from_us` can matter."""
    if job.from_us <= job.known_first_us:
        return True
    return job.neighbours and (first_row is None or first_row >= job.from_us)


def _right_complete(job: _Job, last_row: int | None) -> bool:
    if job.to_us >= job.known_last_us:
        return True
    return job.neighbours and (last_row is None or last_row <= job.to_us)


def _widen(job: _Job, times: NDArray[np.int64], first_row: int | None, last_row: int | None) -> bool:
    """Widen the job to the accepted readings on both sides of the change; whether it must be fetched anew."""
    gap = job.counter.gap_limit_us
    before = times[times <= job.first_us]
    after = times[times >= job.last_us]
    again = False
    # An accepted reading lies within one gap limit of any valid one.
    if not len(before) or before[-1] < job.edge_first_us + gap:
        if len(before):
            edge = _floor(int(before[-1]) - gap)
            if edge < job.edge_first_us:
                job.edge_first_us = edge
                again = True
            job.from_us = min(job.from_us, edge - 2 * gap)
        elif not _left_complete(job, first_row):
            if job.neighbours and first_row is not None:
                job.from_us = first_row - 1
            job.neighbours = again = True
    if not len(after) or after[0] > job.edge_last_us - gap:
        if len(after):
            edge = _ceil(int(after[0]) + gap)
            if edge > job.edge_last_us:
                job.edge_last_us = edge
                again = True
            job.to_us = max(job.to_us, edge + 3 * gap)
        elif not _right_complete(job, last_row):
            if job.neighbours and last_row is not None:
                job.to_us = last_row + 1
            job.neighbours = again = True
    return again


def _intervals(
    job: _Job, times: NDArray[np.int64], values: NDArray[np.float64], first_row: int | None, last_row: int | None
) -> tuple[Intervals, NDArray[np.int64]] | None:
    """Rows of a job and starts of its empty intervals; None if it needs more readings first."""
    counter = job.counter
    edges = np.arange(job.edge_first_us, job.edge_last_us + 1, BASE_US, dtype=np.int64)
    starts = edges[:-1]
    amount = np.zeros(len(starts), np.int64)
    known = np.zeros(len(starts), np.bool_)
    covered = np.zeros(len(starts), np.int64)
    estimated = np.zeros(len(starts), np.int64)
    flags = np.zeros(len(starts), np.uint8)
    cuts = np.flatnonzero(np.diff(times) > counter.estimate_limit_us) + 1
    for piece_times, piece_values in zip(np.split(times, cuts), np.split(values, cuts), strict=True):
        if not len(piece_times) or piece_times[-1] < edges[0] or piece_times[0] > edges[-1]:
            continue
        use = counter_use(
            piece_times,
            piece_values,
            edges,
            resolution=counter.resolution,
            gap_limit_us=counter.gap_limit_us,
            modulus=counter.modulus,
            max_rate_per_h=counter.max_rate_per_h,
            step=counter.step,
        )
        if _lacks(job, use.needs_from_us, use.needs_to_us, piece_times, times, first_row, last_row):
            return None
        series = Series.of_counter(use, edges, resolution=counter.resolution, unit_factor=counter.unit_factor)
        amount += np.where(series.known, series.amount, 0)
        known |= series.known
        covered += series.covered_us
        estimated += series.estimated
        here = (edges[1:] > piece_times[0]) & (starts <= piece_times[-1])
        flags |= np.where(here, series.flags, 0).astype(np.uint8)
    told = known | ((flags & ~np.uint8(_PARTIAL)) != 0)
    rows = Intervals(
        np.full(int(told.sum()), counter.point_id, np.int32),
        starts[told],
        amount[told],
        known[told],
        covered[told],
        estimated[told],
        flags[told].astype(np.int16),
    )
    # Where no valid reading ever was, no row can be.
    may_exist = ~told & (edges[1:] > job.known_first_us) & (starts <= job.known_last_us)
    return rows, starts[may_exist]


def _lacks(
    job: _Job,
    needs_from_us: int,
    needs_to_us: int,
    piece: NDArray[np.int64],
    times: NDArray[np.int64],
    first_row: int | None,
    last_row: int | None,
) -> bool:
    """Whether the kernel wants readings beyond those fetched; the job is widened by them."""
    gap = job.counter.gap_limit_us
    lacks = False
    if piece[0] == times[0] and not _left_complete(job, first_row):
        if needs_from_us == NO_TIME_BEFORE:
            # No accepted reading before the edges among those fetched: look further back.
            job.from_us = min(job.from_us, int(piece[0]) if first_row is None else first_row) - 2 * gap
            job.neighbours = lacks = True
        elif needs_from_us < job.from_us:
            job.from_us = needs_from_us
            lacks = True
    if piece[-1] == times[-1] and not _right_complete(job, last_row):
        if needs_to_us == NO_TIME_AFTER:
            job.to_us = max(job.to_us, int(piece[-1]) if last_row is None else last_row) + 3 * gap
            job.neighbours = lacks = True
        elif needs_to_us > job.to_us:
            job.to_us = needs_to_us
            lacks = True
    return lacks


def _distinct(parts: Sequence[Intervals]) -> Intervals:
    """All rows, each (point, start) once: where two jobs met they found the same."""
    if not parts:
        none = np.zeros(0, np.int64)
        return Intervals(none.astype(np.int32), none, none, none.astype(np.bool_), none, none, none.astype(np.int16))
    rows = Intervals.join(parts)
    rows = rows.take(np.lexsort((rows.starts_us, rows.points)))
    first = np.ones(len(rows), np.bool_)
    first[1:] = (np.diff(rows.points) != 0) | (np.diff(rows.starts_us) != 0)
    return rows.take(first)


def _flatten(empty: Sequence[tuple[int, NDArray[np.int64]]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    if not empty:
        return np.zeros(0, np.int32), np.zeros(0, np.int64)
    points = np.concatenate([np.full(len(starts), point, np.int32) for point, starts in empty])
    return points, np.concatenate([starts for _, starts in empty])


def _floor(at_us: int) -> int:
    return at_us // BASE_US * BASE_US


def _ceil(at_us: int) -> int:
    return -(-at_us // BASE_US) * BASE_US
