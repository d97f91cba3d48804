"""Lines of a register list to devices with tags, and these to `agent.toml`.

Promises

- A line becomes a tag as a whole, or it is reported with its number and the reason.
- What is written passes `check-config`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from edge_agent.importing import cells, meaning
from edge_agent.importing.cells import CellError
from edge_agent.importing.columns import Columns
from edge_agent.toml import string
from protocols.meters.schema import Field
from protocols.modbus.limits import TableName
from protocols.quantities import Medium

_RESERVED = re.compile(r"reserved?|spare|unused|not used|reserviert|réservé|保留|备用|预留", re.IGNORECASE)
_NOT_IN_NAMES = re.compile(r"[^\w\-.]+")
_LONGEST_NAME = 64
_LAST_UNIT = 255


@dataclass(frozen=True, slots=True)
class Options:
    """What the list itself does not say.

    Attributes
    ----------
    device
        Name of the device of lines that name none.
    unit_id
        Of lines that have none.
    table
        Of lines that do not tell it.
    base
        What the list calls the first register, where no table digit leads: 0 or 1.
    modicon
        Whether 40001 means the first holding register; None: found out from the list.
    medium
        What the meters measure.
    host, port
        Of the connection that is written.
    """

    device: str
    unit_id: int = 1
    table: TableName | None = None
    base: int = 0
    modicon: bool | None = None
    medium: Medium | None = None
    host: str = "192.0.2.10"
    port: int = 502


@dataclass(slots=True)
class Imported:
    """What a list gave: fields by device and unit id, lines read, what could not be read, and how it was understood."""

    devices: dict[tuple[str, int], list[tuple[Field, Medium]]] = field(default_factory=dict)
    read: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def lines(rows: Sequence[Sequence[str]], columns: Columns, options: Options) -> Imported:
    """Read all lines below the headings."""
    reader = _Reader(columns, options, rows[columns.row + 1 :])
    for number, row in enumerate(rows[columns.row + 1 :], columns.row + 2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            reader.line(number, columns.cells(row))
        except CellError as error:
            reader.result.problems.append(f"line {number}: {error}")
        else:
            reader.result.read += 1
    return reader.result


def slug(text: str) -> str:
    """A name that is allowed, as like the text as possible; empty if nothing is left."""
    return _NOT_IN_NAMES.sub("_", text.strip()).strip("_.-")[:_LONGEST_NAME].casefold()


class _Reader:
    def __init__(self, columns: Columns, options: Options, rows: Sequence[Sequence[str]]) -> None:
        self.result = Imported()
        self._options = options
        self._taken: dict[tuple[int, TableName, int], tuple[int, tuple[Any, ...]]] = {}
        self._names: dict[tuple[int, str], int] = {}
        addresses = [found["address"] for found in map(columns.cells, rows)]
        self._hexadecimal = columns.hexadecimal or any(map(cells.is_bare_hex, addresses))
        decimal = [text for text in addresses if text.isascii() and text[:1].isdigit() and not self._hexadecimal]
        decimal = [text for text in decimal if not re.search(r"[a-zA-Z:]", text)]
        likely = [cells.looks_modicon(text) for text in decimal]
        self._modicon = options.modicon if options.modicon is not None else bool(likely) and all(likely)
        self._mixed = options.modicon is None and any(likely) and not all(likely)
        notes = self.result.notes
        if self._hexadecimal:
            notes.append("addresses without a mark are taken as hexadecimal")
        if self._modicon:
            notes.append("addresses such as 40001 are taken as table and number: 40001 is holding register 0")
        elif decimal:
            notes.append(f"the first register is called {options.base}; if it is not, use --base")
        if "unit_id" not in columns.places:
            notes.append(f"the list has no unit ids; {options.unit_id} is taken")
        if columns.unused:
            notes.append(f"columns without use here: {', '.join(columns.unused)}")

    def line(self, number: int, cell: dict[str, str]) -> None:
        name = slug(cell["name"])
        if not cell["address"]:
            raise CellError(f"no address ({cell['name']!r:.60})")
        if not name:
            raise CellError(f"name {cell['name']!r:.60} has no letter or digit")
        if _RESERVED.search(cell["name"]):
            raise CellError(f"{cell['name']!r:.60} is reserved")
        address, table = self._place(cell)
        count = self._count(cell, address)
        bits = table in ("coil", "discrete")
        type_ = "bool" if bits and not cell.get("type") else cells.register_type(cell.get("type", ""), count)
        unit, unit_factor = cells.unit(cell.get("unit", ""))
        medium = meaning.medium_of(cell.get("medium", "")) or self._options.medium
        text = f"{cell['name']} {cell.get('description', '')} {cell.get('device', '')}"
        told = meaning.tell(text, unit, type_, medium)
        orders = cells.orders(cell.get("word_order", ""), cell.get("type", ""))
        try:
            found = Field(
                name=name,
                quantity=told.quantity,
                unit=unit,
                kind=told.kind,
                table=table,
                address=address.number,
                type=type_,
                scale=self._scale(cell, unit_factor),
                word_order=orders[0] if orders else None,
                byte_order=orders[1] if orders else None,
            )
        except ValidationError as error:
            reasons = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
            raise CellError(reasons) from error
        key = self._device(cell)
        self._claim(number, key, found)
        self.result.devices.setdefault(key, []).append((found, told.medium))

    def _place(self, cell: dict[str, str]) -> tuple[cells.Address, TableName]:
        text = cell["address"]
        told = cells.table(cell.get("table", ""))
        if self._mixed and cells.looks_modicon(text):
            raise CellError(f"address {text!r} may begin with a table digit; allowed: --addresses modicon or plain")
        address = cells.address(text, modicon=self._modicon, base=self._options.base, hexadecimal=self._hexadecimal)
        if told and address.table and told != address.table:
            raise CellError(f"address {text!r} is in table {address.table}, the list says {told}")
        table = address.table or told or self._options.table
        if table is None:
            raise CellError(f"the table of address {text!r} is not told; allowed: --table holding or input")
        return address, table

    @staticmethod
    def _count(cell: dict[str, str], address: cells.Address) -> int | None:
        text = cell.get("count", "")
        # A column named so may hold a quantity instead; only a number is a length.
        told = int(text) if text.isascii() and text.isdigit() else None
        if told is not None and address.count is not None and told != address.count:
            raise CellError(f"address {cell['address']!r} has {address.count} registers, the list says {told}")
        return told if told is not None else address.count

    @staticmethod
    def _scale(cell: dict[str, str], unit_factor: float) -> float:
        factors = []
        if cell.get("scale") and cell["scale"] not in ("-", "/", "--"):
            factors.append(cells.factor(cell["scale"]))
        if cell.get("divisor"):
            divisor = cells.number(cell["divisor"])
            if divisor == 0:
                raise CellError("divisor 0; allowed: any other number")
            factors.append(1 / divisor)
        if cell.get("decimals"):
            if not re.fullmatch(r"\d", cell["decimals"]):
                raise CellError(f"decimals {cell['decimals']!r}; allowed: 0 to 9")
            factors.append(float(f"1e-{cell['decimals']}"))
        if cell.get("gain") and cells.number(cell["gain"]) != 1:
            raise CellError(f"gain {cell['gain']!r} may multiply or divide; allowed: a column scale or divisor")
        if unit_factor != 1:
            factors.append(unit_factor)
        told = {found for found in factors if found != 1}
        if len(told) > 1:
            raise CellError(f"several factors: {', '.join(f'{found:g}' for found in factors)}; allowed: one")
        return told.pop() if told else 1.0

    def _device(self, cell: dict[str, str]) -> tuple[str, int]:
        text = cell.get("unit_id", "")
        unit_id = self._options.unit_id
        if text:
            if not (text.isascii() and text.isdigit()) or int(text) > _LAST_UNIT:
                raise CellError(f"unit id {text!r}; allowed: 0 to {_LAST_UNIT}")
            unit_id = int(text)
        named = slug(cell.get("device", ""))
        return named or self._options.device, unit_id

    def _claim(self, number: int, key: tuple[str, int], found: Field) -> None:
        """Refuse a second tag of one name, and registers that overlap in part or belong to another device."""
        place = key[0], found.table, found.address, found.type, found.word_order, found.byte_order
        _, unit_id = key
        registers = [(unit_id, found.table, found.address + offset) for offset in range(found.count)]
        for register in registers:
            line, other = self._taken.get(register, (number, place))
            if other != place:
                raise CellError(f"{found.table} {register[2]} of unit id {unit_id} is in line {line} already")
        line = self._names.setdefault((unit_id, f"{key[0]}/{found.name}"), number)
        if line != number:
            raise CellError(f"name {found.name!r} is in line {line} already")
        for register in registers:
            self._taken.setdefault(register, (number, place))


def toml(imported: Imported, options: Options) -> str:
    """The text of `agent.toml`, with one connection and all devices."""
    return "\n".join([*_head(options), *_devices(imported)]) + "\n"


def _head(options: Options) -> Iterator[str]:
    yield "# Made from a register list. Edit: names, buffer, broker, connection; see `edge-agent print-config`."
    yield '[agent]\ntenant = "acme"\nname = "gateway1"\nsite = "plant1"\n'
    yield '[buffer]\npath = "buffer/gateway1.sqlite"\n'
    yield '[mqtt]\nhost = "mqtt.example.com"\n'
    yield '[[connection]]\nname = "bus"\nprotocol = "modbus-tcp"'
    yield f"host = {string(options.host)}\nport = {options.port}"


def _devices(imported: Imported) -> Iterator[str]:
    names = [name for name, _ in imported.devices]
    taken: set[str] = set()
    for (name, unit_id), fields in imported.devices.items():
        unique = name if names.count(name) == 1 and name not in taken else f"{name[: _LONGEST_NAME - 4]}_{unit_id}"
        while unique in taken:
            unique = f"{unique[: _LONGEST_NAME - 1]}x"
        taken.add(unique)
        yield f'\n[[device]]\nname = {string(unique)}\nconnection = "bus"\nunit_id = {unit_id}'
        for found, medium in fields:
            yield "\n[[device.tag]]"
            keys = found.model_dump(exclude_defaults=True) | {"medium": medium}
            for key, value in keys.items():
                yield f"{key} = {string(value) if isinstance(value, str) else repr(value)}"
