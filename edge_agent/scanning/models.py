"""Which meter models of the catalogue a unit could be.

A model could be it if all its fields can be read and no value is absurd: that is a hint, not a proof, so the
values are shown. Words that mean nothing at these addresses are rarely all plausible as floats, but often as
integers; and a device that gives zeros everywhere is no model at all.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_agent.scanning.errors import OutOfRequestsError
from edge_agent.scanning.line import ILLEGAL_FUNCTION, Line
from edge_agent.scanning.ranges import Span
from protocols import quantities
from protocols.meters.schema import Field, MeterModel
from protocols.modbus import words
from protocols.modbus.limits import TableName
from protocols.modbus.requests import Cost, FieldAddress, plan
from protocols.reading import Value

_NO_HOLES = Cost(round_trip_s=0.0, bytes_per_s=1.0)
"""A hole between fields is never read: the unit may refuse it."""
_ONES = 0xFF
_WORD = re.compile(r"[a-z0-9]+")
_SHORTEST = 3
_FLOAT32_DIGITS = 7
_DIGITS = 12
"""That a value is shown with, so that it can be compared with the meter's display."""
_MOST_SILENT = 5
_TOO_SMALL = 1e-9
"""Floats nearer to zero come from words that are no floats."""
_LARGEST_COUNT = 1e10

_PLAUSIBLE: Mapping[str, tuple[float, float]] = {
    "active_energy": (0, _LARGEST_COUNT),
    "reactive_energy": (-_LARGEST_COUNT, _LARGEST_COUNT),
    "active_power": (-1e6, 1e6),
    "reactive_power": (-1e6, 1e6),
    "apparent_power": (-1e6, 1e6),
    "voltage": (10, 1e6),
    "current": (-1e5, 1e5),
    "power_factor": (-1.05, 1.05),
    "frequency": (45, 65),
    "thermal_energy": (0, _LARGEST_COUNT),
    "thermal_power": (-1e6, 1e6),
    "volume": (0, _LARGEST_COUNT),
    "volume_flow": (-1e6, 1e6),
    "normal_volume": (0, _LARGEST_COUNT),
    "normal_volume_flow": (-1e6, 1e6),
    "mass": (0, _LARGEST_COUNT),
    "mass_flow": (-1e5, 1e5),
    "temperature": (-100, 1500),
    "pressure": (-1e3, 1e5),
    "ratio": (-2, 2),
    "pieces": (0, _LARGEST_COUNT),
    "running_time": (0, 1e6),
}
"""What values may be, in the canonical unit."""
_NARROW = {"voltage", "frequency"}
"""Quantities of which few integers are plausible."""
_MAY_BE_ZERO = {"voltage"}
"""A phase that is not connected."""


@dataclass(frozen=True, slots=True)
class FieldValue:
    """A field as it was read, in its own unit."""

    field: Field
    value: Value

    @property
    def text(self) -> str:
        """For people."""
        place = f"({self.field.table} {self.field.address})"
        if self.value is None:
            return f"{self.field.name}: no value {place}"
        value = str(self.value)
        if isinstance(self.value, float):
            digits = _FLOAT32_DIGITS if self.field.type == "float32" else _DIGITS
            value = repr(float(f"{self.value:.{digits}g}")).removesuffix(".0")
        return f"{self.field.name} = {value} {self.field.unit} {place}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that a unit could be.

    Attributes
    ----------
    model
        The model.
    values
        All its fields; without value where the unit says by the model's own sign that it has none.
    named
        Which of maker and model the unit's own identification names.
    """

    model: MeterModel
    values: tuple[FieldValue, ...]
    named: tuple[str, ...]

    @property
    def likely(self) -> bool:
        """Whether there is more to it than zeros and integers, which are plausible almost anywhere."""
        proofs = [one for one in self.values if one.value and one.field.type.startswith("float")]
        proofs += [one for one in self.values if one.value and one.field.quantity in _NARROW]
        return bool(self.named) or (bool(proofs) and 2 * self.telling >= len(self.values))

    @property
    def rank(self) -> tuple[int, bool, float, int]:
        """The greater, the likelier."""
        return len(self.named), self.likely, self.telling / len(self.values), len(self.values)

    @property
    def telling(self) -> int:
        """Fields that are not zero."""
        return sum(1 for found in self.values if found.value not in (0, False, "", None))


@dataclass(slots=True)
class Trial:
    """What came of trying all models on a unit.

    Attributes
    ----------
    candidates
        The likeliest first.
    readable
        Spans that were read meanwhile, by table.
    stopped
        Why not all were tried; empty if all were.
    """

    candidates: list[Candidate]
    readable: dict[TableName, list[Span]]
    stopped: str = ""


async def attempt(
    line: Line, unit_id: int, models: Iterable[MeterModel], identification: Mapping[str, str], limit: int
) -> Trial:
    """Try models on a unit, by at most so many requests.

    Raises
    ------
    ScanError
        If the connection is lost for good.
    """
    reader = _Reader(line, unit_id, line.asked + limit)
    told = " ".join(identification.values()).casefold()
    found = []
    stopped = ""
    try:
        for model in models:
            values = await reader.values(model)
            if values is not None:
                candidate = Candidate(model, values, _named(model, told))
                found += [candidate] if candidate.telling else []
    except OutOfRequestsError as error:
        stopped = str(error)
    found.sort(key=lambda one: one.rank, reverse=True)
    return Trial(found, reader.readable(), stopped)


def _named(model: MeterModel, told: str) -> tuple[str, ...]:
    maker = model.maker.casefold().split()[0] in told
    # A word of the model's name counts if it has a digit: others are no names.
    words_ = [word for word in _WORD.findall(model.model.casefold()) if any(letter.isdigit() for letter in word)]
    product = any(len(word) >= _SHORTEST and word in told for word in words_)
    return ("maker",) * maker + ("model",) * product


class _Reader:
    """Reads models of one unit; what was asked for once is not asked for again."""

    def __init__(self, line: Line, unit_id: int, end: int) -> None:
        self._line = line
        self._unit_id = unit_id
        self._end = end
        self._known: dict[tuple[TableName, int, int], bytes | None] = {}
        self._lacking: set[TableName] = set()
        self._silences = 0

    async def values(self, model: MeterModel) -> tuple[FieldValue, ...] | None:
        """All fields of a model; None if one cannot be read or is absurd."""
        addresses = [FieldAddress(n, field.table, field.address, field.count) for n, field in enumerate(model.fields)]
        values: dict[int, FieldValue] = {}
        for request in plan(addresses, self._unit_id, model.limits, _NO_HOLES):
            data = await self._read(
                request.table, request.address, request.count, model.limits.pause_between_requests_ms
            )
            if data is None:
                return None
            for position in request.fields:
                field = model.fields[position]
                raw = raw_value(model, field, data, field.address - request.address)
                # A value by which the model says that it has none is as good a sign as a number.
                absent = field.no_value is not None and raw == field.no_value
                value = None if absent else scaled(field, raw)
                if not absent and not is_plausible(field, value):
                    return None
                values[position] = FieldValue(field, value)
        return tuple(values[position] for position in range(len(model.fields)))

    def readable(self) -> dict[TableName, list[Span]]:
        """What was read, by table."""
        found: dict[TableName, list[Span]] = {}
        for (table, address, count), data in self._known.items():
            if data is not None:
                found.setdefault(table, []).append((address, address + count - 1))
        return found

    async def _read(self, table: TableName, address: int, count: int, least_pause_s: float) -> bytes | None:
        place = table, address, count
        if table in self._lacking:
            return None
        if place not in self._known:
            if self._line.asked >= self._end:
                raise OutOfRequestsError("no requests are left, by --max-requests")
            pause_s, self._line.pause_s = self._line.pause_s, max(self._line.pause_s, least_pause_s)
            try:
                answer = await self._line.read_surely(self._unit_id, table, address, count)
            finally:
                self._line.pause_s = pause_s
            self._known[place] = answer.data
            self._silences += not answer.heard
            if self._silences > _MOST_SILENT:
                raise OutOfRequestsError("the unit says nothing where others refuse")
            if answer.exception == ILLEGAL_FUNCTION:
                self._lacking.add(table)
        return self._known[place]


def raw_value(model: MeterModel, field: Field, data: bytes, offset: int) -> Value:
    """What stands in a field's place of an answer; None if it is nothing of its type."""
    if field.table in ("coil", "discrete"):
        return bool(data[offset // 8] >> offset % 8 & 1)
    raw = data[2 * offset : 2 * (offset + field.count)]
    try:
        (value,) = words.compile_decoder([(0, field.type, *model.orders(field), field.part)], field.count)(raw)
    except struct.error:
        return None
    # All ones stand for what is not there, whether the model says so or not; they are hardly ever a number.
    nothing = set(raw) == {_ONES} and field.type in words.NUMBER_TYPES and value != field.no_value
    return None if nothing else value


def scaled(field: Field, raw: Value) -> Value:
    """A field's value in its unit; None if it is no number."""
    if raw is None or isinstance(raw, bool | str):
        return raw
    if not math.isfinite(raw):
        return None
    return raw if field.is_raw else raw * field.scale + field.offset


def is_plausible(field: Field, value: Value) -> bool:
    """Whether a meter may show this."""
    if value is None:
        return False
    if isinstance(value, bool | str):
        return True
    unit = quantities.unit(field.quantity, field.unit)
    canonical = value * unit.factor + unit.offset
    if value == 0:
        return field.quantity in _MAY_BE_ZERO or _within(field.quantity, canonical)
    if field.type.startswith("float") and abs(value) < _TOO_SMALL:
        return False
    return _within(field.quantity, canonical)


def _within(quantity: str, canonical: float) -> bool:
    least, most = _PLAUSIBLE.get(quantity, (-math.inf, math.inf))
    return least <= canonical <= most
