"""From the bytes of a Modbus answer to values: compiled once per request of a layout, for all devices that share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import cast
from weakref import WeakKeyDictionary

from edge_agent.points import Layout, RegisterTag
from protocols.modbus import words
from protocols.modbus.requests import Request, data_bytes
from protocols.reading import INT_MAX, INT_MIN, Value, ValueType

_SIMPLE_TYPES = {"bool", *words.NUMBER_TYPES}
"""Types whose values are numbers, without exception."""
_ALL_ONES = {"uint32": 2**32 - 1, "uint64": 2**64 - 1}
"""What meters put where they have no value, whether their manuals say so or not; as a count it would be a whole
turn of the register."""
_FOUR_ONES = b"\xff" * 4


@dataclass(frozen=True, slots=True)
class Group:
    """Values of one type in an answer.

    Attributes
    ----------
    value_type
        The type.
    positions
        Positions of the tags in the layout; a range where they follow each other.
    pick
        Takes them from all values of the answer; None: they are all.
    """

    value_type: ValueType
    positions: Sequence[int]
    pick: Callable[[Sequence[Value]], Sequence[Value]] | None


class Decoding:
    """What becomes of the answer to one request.

    Parameters
    ----------
    request
        A request for fields of the layout.
    layout
        The tags.
    """

    __slots__ = ("_careful", "_decode", "_factors", "_no_values", "_ones", "_size", "_types", "groups", "positions")

    def __init__(self, request: Request, layout: Layout) -> None:
        tags = [layout.tags[position] for position in request.fields]
        fields = [tag.field for tag in tags]
        self.positions = _run(request.fields)
        self._size = data_bytes(request.table, request.count)
        self._decode = _decoder(request, tags)
        self._factors = None
        if not all(field.is_raw for field in fields):
            # Integers 1 and 0 leave raw integers what they are.
            self._factors = [(1, 0) if field.is_raw else (field.scale, field.offset) for field in fields]
        self._no_values = tuple(
            (place, field.no_value) for place, field in enumerate(fields) if field.no_value is not None
        )
        self._ones = tuple(
            (place, _ALL_ONES[field.type])
            for place, field in enumerate(fields)
            if field.no_value is None and field.type in _ALL_ONES
        )
        self._types = tuple(field.value_type for field in fields)
        self.groups = tuple(_groups(self._types, request.fields))
        self._careful = bool(self._no_values) or any(
            field.type == "uint64" or field.type not in _SIMPLE_TYPES for field in fields
        )

    def values(self, raw: bytes) -> Sequence[Value] | None:
        """Values of an answer (byte count and data), None in place of those that are none; None if it is nonsense."""
        if len(raw) != self._size + 1 or raw[0] != self._size:
            return None
        values = self._decode(raw[1:])
        if self._careful or (self._ones and _FOUR_ONES in raw):
            return self._checked(values)
        numbers = cast("tuple[float, ...]", values)
        if not math.isfinite(sum(numbers)):
            return self._checked(values)
        if self._factors is not None:
            return [value * scale + offset for value, (scale, offset) in zip(numbers, self._factors, strict=True)]
        return values

    def _checked(self, values: words.Values) -> list[Value]:
        """One by one, since some may be no value."""
        found: list[Value] = list(values)
        for place, (value, type_) in enumerate(zip(values, self._types, strict=True)):
            if value is None or isinstance(value, bool | str):
                continue
            if not math.isfinite(value):
                found[place] = None
            elif self._factors is not None:
                scale, offset = self._factors[place]
                scaled = value * scale + offset
                found[place] = scaled if math.isfinite(scaled) else None
            if type_ == "int" and not INT_MIN <= value <= INT_MAX:
                found[place] = None
        for place, no_value in (*self._no_values, *self._ones):
            if values[place] == no_value:
                found[place] = None
        return found


def decoding(request: Request, layout: Layout) -> Decoding:
    """What becomes of the answer to a request; one object for all devices of a layout."""
    known = _known.setdefault(layout, {})
    which = request.table, request.address, request.count, request.fields
    found = known.get(which)
    if found is None:
        found = known[which] = Decoding(request, layout)
    return found


def of_device(positions: Sequence[int], first: int) -> Sequence[int]:
    """Indices in the schema of tags at these positions, for the device whose first point has index `first`."""
    if isinstance(positions, range):
        return range(first + positions.start, first + positions.stop)
    return [first + position for position in positions]


_known: WeakKeyDictionary[Layout, dict[tuple[object, ...], Decoding]] = WeakKeyDictionary()


def _decoder(request: Request, tags: Sequence[RegisterTag]) -> Callable[[bytes], words.Values]:
    if request.table in ("coil", "discrete"):
        return words.compile_bit_decoder([tag.field.address - request.address for tag in tags], request.count)
    layout: list[words.Place] = [
        (tag.field.address - request.address, tag.field.type, tag.word_order, tag.byte_order, tag.field.part)
        for tag in tags
    ]
    return words.compile_decoder(layout, request.count)


def _groups(types: Sequence[ValueType], positions: Sequence[int]) -> list[Group]:
    groups = []
    for value_type in dict.fromkeys(types):
        places = [place for place, type_ in enumerate(types) if type_ == value_type]
        chosen = _run([positions[place] for place in places])
        groups.append(Group(value_type, chosen, None if len(places) == len(types) else _picker(places)))
    return groups


def _picker(places: Sequence[int]) -> Callable[[Sequence[Value]], Sequence[Value]]:
    run = _run(places)
    if isinstance(run, range):
        return itemgetter(slice(run.start, run.stop))
    return itemgetter(*places)


def _run(numbers: Sequence[int]) -> Sequence[int]:
    """The numbers, as a range if they follow each other."""
    if all(after == before + 1 for before, after in pairwise(numbers)):
        return range(numbers[0], numbers[-1] + 1)
    return tuple(numbers)
