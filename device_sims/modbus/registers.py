"""Register tables whose content is evaluated when it is read.

A range that is asked for is compiled once: the fields in it become one `struct`, and one permutation of its
bytes where a model departs from big order.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from device_sims.kinds.base import Value
from protocols.errors import RegisterValueError
from protocols.meters.schema import Field, TableName
from protocols.modbus import words
from protocols.modbus.words import Order, RegisterType

if TYPE_CHECKING:
    from device_sims.plant.plant import Moment

Reader = Callable[["Moment"], bytes]
"""Data bytes of an answer at a moment; raises `struct.error` or `OverflowError` if a value does not fit."""

_CODES: dict[RegisterType, str] = {
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A field in its table.

    Attributes
    ----------
    field
        What the model says.
    orders
        Word and byte order.
    raw
        Evaluates what stands in the registers, before it is coded.
    """

    field: Field
    orders: tuple[Order, Order]
    raw: Value


def raw_value(field: Field, value: Value, modulus: float | None) -> Value:
    """From a field's value to its raw content: scaled, wrapped, and for integers whole.

    Counters show full counts only, so integers are rounded down; gauges are rounded to nearest.
    """
    scale, offset = field.scale, field.offset
    if field.value_type in ("bool", "text"):
        return value
    if field.type.startswith("float"):
        if modulus is None:
            return lambda moment: (value(moment) - offset) / scale
        return lambda moment: (value(moment) % modulus - offset) / scale
    if field.kind != "counter":
        return lambda moment: round((value(moment) - offset) / scale)
    if modulus is None:
        return lambda moment: math.floor((value(moment) - offset) / scale)
    counts = round(modulus / scale)
    return lambda moment: math.floor((value(moment) - offset) / scale) % counts


class Table:
    """One data table of a device.

    Parameters
    ----------
    cells
        Its fields.
    refuse_holes
        Whether a range with an address between fields is refused rather than read as zero.
    exact
        Whether only ranges of exactly one field are answered.
    """

    def __init__(self, name: TableName, cells: Sequence[Cell], *, refuse_holes: bool, exact: bool) -> None:
        self._bits = name in ("coil", "discrete")
        places: dict[int, list[Cell]] = {}
        for cell in cells:
            places.setdefault(cell.field.address, []).append(cell)
        self._cells = [_together(places[address]) for address in sorted(places)]
        self._refuse_holes = refuse_holes
        self._exact = exact

    def reader(self, address: int, count: int) -> Reader | None:
        """Compile the reading of a range; None if the device has no such addresses."""
        end = address + count
        inside = [c for c in self._cells if c.field.address < end and c.field.address + c.field.count > address]
        if not inside:
            return None
        outside = address < self._cells[0].field.address or end > _end(self._cells[-1])
        held = sum(min(end, _end(cell)) - max(address, cell.field.address) for cell in inside)
        whole = len(inside) == 1 and (inside[0].field.address, inside[0].field.count) == (address, count)
        if outside or (self._refuse_holes and held < count) or (self._exact and not whole):
            return None
        return _bits(inside, address, count) if self._bits else _registers(inside, address, count)


def _end(cell: Cell) -> int:
    return cell.field.address + cell.field.count


def _together(cells: Sequence[Cell]) -> Cell:
    """What stands at one place: any of the cells, since they agree; but bits of a register add up."""
    if cells[-1].field.type != "bit":
        return cells[-1]
    bits = {cell.field.part: cell.raw for cell in cells}
    word = cells[-1].field.model_copy(update={"type": "uint16", "bit": None})
    return Cell(word, cells[-1].orders, lambda moment: sum(1 << place for place, raw in bits.items() if raw(moment)))


def _bits(cells: Sequence[Cell], address: int, count: int) -> Reader:
    places = [(cell.field.address - address, cell.raw) for cell in cells]
    size = (count + 7) // 8

    def read(moment: Moment) -> bytes:
        bits = sum(1 << place for place, raw in places if raw(moment))
        return bits.to_bytes(size, "little")

    return read


def _registers(cells: Sequence[Cell], address: int, count: int) -> Reader:
    # The first and the last field may lie in the range in part only: pack them whole, then cut.
    first = min(address, cells[0].field.address)
    last = max(address + count, _end(cells[-1]))
    form, here = [">"], first
    order = list(range(2 * (last - first)))
    for cell in cells:
        field = cell.field
        form.append(f"{2 * (field.address - here)}x{_CODES.get(field.type) or f'{2 * field.count}s'}")
        here = _end(cell)
        if cell.orders != ("big", "big"):
            base = 2 * (field.address - first)
            order[base : base + 2 * field.count] = [base + n for n in _permutation(field.count, *cell.orders)]
    form.append(f"{2 * (last - here)}x")
    pack = struct.Struct("".join(form)).pack
    raws = [cell.raw if cell.field.type in _CODES else _coded(cell) for cell in cells]
    cut = slice(2 * (address - first), 2 * (address - first + count))
    wanted = order[cut]
    if wanted == list(range(2 * (last - first))):
        return lambda moment: pack(*[raw(moment) for raw in raws])
    pick = itemgetter(*wanted)  # at least two bytes, so it gives a tuple
    return lambda moment: bytes(pick(pack(*[raw(moment) for raw in raws])))


def _coded(cell: Cell) -> Callable[[Moment], bytes]:
    """Types that `struct` does not know, in big order. Simulated meters have no text: it reads as empty."""
    field, raw = cell.field, cell.raw
    if field.value_type == "text":
        empty = bytes(2 * field.count)
        return lambda _: empty

    def encode(moment: Moment) -> bytes:
        try:
            return words.encode(field.type, raw(moment))
        except RegisterValueError as error:
            raise struct.error(str(error)) from error

    return encode


def _permutation(width: int, word_order: Order, byte_order: Order) -> list[int]:
    """Which byte of the big-endian value stands at each place on the wire."""
    return list(words.encode("hex", bytes(range(2 * width)).hex(), word_order, byte_order, width))
