"""What is taken out of batches that were never sent, when there is no room for all of them.

Counters and events keep all their readings: what was used and made is counted from them. Of a gauge or a state
one reading per window stays, the first, and besides: the first after it turned bad or good, and each change of
a state. The window is a minute, or half the gap limit where that is shorter, so that what stays is no gap.
A point of a schema that can't be read any more is treated as a counter.

A batch is immutable, so what stays becomes new batches with identities of their own: consecutive batches of
one schema are put together, unless their clock was not synchronised, since those may be re-timed one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from edge_agent.buffer.records import Draft, Level
from protocols.birth import AnySchema
from protocols.gap import LostPoints
from protocols.quantities import Kind
from protocols.reading import Batch, Columns, Value, ValueType
from protocols.timebase import US

WINDOW_S = 60.0
"""Of a gauge or a state, at least one reading in such a time is kept [s]."""
_ESSENTIAL = ("counter", "event")
_MOST_READINGS = 1000
_MOST_OFFSET_US = 30 * 86_400 * US

_Keep = Callable[[int, int, Value], bool]


@dataclass(frozen=True, slots=True)
class Thinned:
    """What became of consecutive batches.

    Attributes
    ----------
    sources
        Positions of the batches.
    draft
        What is left of them; None if nothing is.
    lost
        What is not.
    """

    sources: tuple[int, ...]
    draft: Draft | None
    lost: tuple[LostPoints, ...]


def thinned(batches: Sequence[Batch], schemas: Callable[[str], AnySchema | None], level: Level) -> list[Thinned]:
    """Take out of batches what a level does not keep.

    Parameters
    ----------
    batches
        In the order of the buffer.
    schemas
        Schema by id, None if it is not known.
    level
        How much.
    """
    found: list[Thinned] = []
    rules: dict[str, _Keep] = {}
    for _, members in groupby(enumerate(batches), key=_key):
        part = _Part()
        for position, batch in members:
            if batch.schema_id not in rules:
                rules[batch.schema_id] = _rule(schemas(batch.schema_id), level)
            if not part.fits(batch):
                found.append(part.finish())
                part = _Part()
            part.add(position, batch, rules[batch.schema_id])
        found.append(part.finish())
    return found


def _key(numbered: tuple[int, Batch]) -> tuple[object, ...]:
    """Neighbours with the same key may be put together."""
    position, batch = numbered
    alone = None if batch.clock.synchronised else position
    return batch.schema_id, batch.clock.boot_id, alone


def _rule(schema: AnySchema | None, level: Level) -> _Keep:
    kinds: list[Kind] = [] if schema is None else schema.column("kind")
    if level == Level.ESSENTIAL:
        return lambda index, _at_us, _value: index >= len(kinds) or kinds[index] in _ESSENTIAL
    return _Sampler(kinds, [] if schema is None else schema.column("gap_limit_s")).keep


class _Sampler:
    """Keeps of each gauge and state what the module says."""

    def __init__(self, kinds: Sequence[Kind], gap_limits_s: Sequence[float]) -> None:
        self._kinds = kinds
        self._windows_us = [max(1, round(min(WINDOW_S, limit_s / 2) * US)) for limit_s in gap_limits_s]
        self._last: dict[int, tuple[int, Value]] = {}

    def keep(self, index: int, at_us: int, value: Value) -> bool:
        if index >= len(self._kinds) or self._kinds[index] in _ESSENTIAL:
            return True
        window = at_us // self._windows_us[index]
        before = self._last.get(index)
        self._last[index] = window, value
        if before is None or before[0] != window or (before[1] is None) != (value is None):
            return True
        return self._kinds[index] == "state" and before[1] != value


@dataclass(slots=True)
class _Group:
    """Readings of one value type that stay."""

    points: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    qualities: list[int] = field(default_factory=list)


class _Part:
    """Neighbours that are put together."""

    def __init__(self) -> None:
        self._sources: list[int] = []
        self._last: Batch | None = None
        self._base_us = 0
        self._kept = 0
        self._groups: dict[ValueType, _Group] = {}
        self._lost_points: set[int] = set()
        self._lost_at_us: tuple[int, int] | None = None
        self._lost = 0

    def fits(self, batch: Batch) -> bool:
        """Whether another batch can be added."""
        return not self._sources or (
            self._kept < _MOST_READINGS and abs(batch.base_us - self._base_us) < _MOST_OFFSET_US
        )

    def add(self, position: int, batch: Batch, keep: _Keep) -> None:
        """Add what stays of a batch."""
        if not self._sources:
            self._base_us = batch.base_us
        self._sources.append(position)
        self._last = batch
        shift_us = batch.base_us - self._base_us
        for value_type, columns in batch.columns.items():
            qualities: Iterable[int] = columns.qualities or [0] * len(columns)
            for point, offset_us, value, quality in zip(
                columns.points, columns.offsets_us, columns.values, qualities, strict=True
            ):
                if keep(point, batch.base_us + offset_us, value):
                    group = self._groups.setdefault(value_type, _Group())
                    group.points.append(point)
                    group.offsets.append(offset_us + shift_us)
                    group.values.append(value)
                    group.qualities.append(quality)
                    self._kept += 1
                else:
                    self._lose(point, batch.base_us + offset_us)

    def _lose(self, point: int, at_us: int) -> None:
        self._lost += 1
        self._lost_points.add(point)
        first_us, last_us = self._lost_at_us or (at_us, at_us)
        self._lost_at_us = min(first_us, at_us), max(last_us, at_us)

    def finish(self) -> Thinned:
        """What became of them."""
        last = self._last
        assert last is not None
        draft = None
        if self._kept:
            columns = {
                value_type: Columns(group.points, group.offsets, group.values, group.qualities)
                for value_type, group in self._groups.items()
            }
            draft = Draft(last.schema_id, last.created_us, last.clock, self._base_us, columns)
        lost: tuple[LostPoints, ...] = ()
        if self._lost_at_us is not None:
            first_us, last_us = self._lost_at_us
            lost = (LostPoints(last.schema_id, tuple(sorted(self._lost_points)), first_us, last_us, self._lost),)
        return Thinned(tuple(self._sources), draft, lost)
