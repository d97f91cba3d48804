"""What the bytes of Modbus answers mean: decoders compiled once per request, and the encoder for simulators.

Modbus sends registers of 16 bits, high byte first. A wider value takes several registers; makers differ in
their order: ``word_order`` is the order of the registers (big: most significant first), ``byte_order`` that
of the two bytes in a register. Scaling is not done here, and NaN and infinity come out as they are. What its
type does not allow (a digit above 9, text that is none) comes out as None.

| Type | Content |
|---|---|
| int16 … float64 | numbers as machines code them |
| bcd16, bcd32 | four, eight decimal digits of four bits each |
| mod10k32, mod10k48, mod10k64 | registers of 0 to 9999 each: decimal digits in groups of four |
| bit | one bit of a register; bit 0 is the lowest |
| string | ASCII characters, up to the first NUL; two a register |
| hex | the registers as they are, as text |
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, Literal, get_args

from protocols.errors import DecodePlanError, RegisterValueError
from protocols.reading import Value

RegisterType = Literal[
    "bool",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float32",
    "float64",
    "bcd16",
    "bcd32",
    "mod10k32",
    "mod10k48",
    "mod10k64",
    "bit",
    "string",
    "hex",
]
Order = Literal["big", "little"]
Place = tuple[int, RegisterType, Order, Order] | tuple[int, RegisterType, Order, Order, int]
"""Offset from the first register of the answer, type, word order, byte order; then which bit, or how many registers."""

Values = tuple[Value, ...]

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
NUMBER_TYPES: tuple[RegisterType, ...] = tuple(_CODES)
"""Numbers as machines code them: decoded by `struct` alone."""
_DECIMALS: dict[RegisterType, int] = {"bcd16": 1, "bcd32": 2, "mod10k32": 2, "mod10k48": 3, "mod10k64": 4}
DECIMAL_TYPES: tuple[RegisterType, ...] = tuple(_DECIMALS)
"""Whole numbers in decimal digits; never negative."""
TEXT_TYPES: tuple[RegisterType, ...] = ("string", "hex")
"""Types that need a length [registers]."""
REGISTER_TYPES: tuple[RegisterType, ...] = (*NUMBER_TYPES, *DECIMAL_TYPES, "bit", *TEXT_TYPES)
"""Types of values in registers: all but ``bool``."""
_BITS = 16
_GROUP = 10_000

assert set(get_args(RegisterType)) == {"bool", *REGISTER_TYPES}


def register_count(type_: RegisterType, length: int = 0) -> int:
    """How many table entries a value takes: registers, or one coil for a ``bool``; `length` is that of a text."""
    if type_ in TEXT_TYPES:
        return length
    if type_ in _DECIMALS:
        return _DECIMALS[type_]
    return struct.calcsize(f">{_CODES[type_]}") // 2 if type_ in _CODES else 1


def compile_decoder(layout: Sequence[Place], register_count: int) -> Callable[[bytes], Values]:
    """Compile the decoding of one answer with registers.

    A layout that ascends without overlap, all in big order, becomes one call of a precompiled `struct`;
    any other is brought into that form by one permutation of the bytes.

    Parameters
    ----------
    layout
        Where the values are; each gives one entry of the result, in this order.
    register_count
        Length of the answer [registers].

    Returns
    -------
    callable
        From the register bytes as on the wire to the values; None where there is no value of the type. It
        raises `struct.error` if their number is not twice `register_count`.

    Raises
    ------
    DecodePlanError
        If a value does not lie within the answer, or its type has no place in registers.
    """
    for place in layout:
        offset, type_ = place[:2]
        if type_ not in REGISTER_TYPES:
            raise DecodePlanError(f"type {type_!r} in registers; allowed: {', '.join(REGISTER_TYPES)}")
        if type_ == "bit" and not 0 <= _part(place) < _BITS:
            raise DecodePlanError(f"bit {_part(place)} of a register; allowed: 0 to {_BITS - 1}")
        if _width(place) < 1:
            raise DecodePlanError(f"{type_} of {_width(place)} registers; allowed: from 1")
        last = offset + _width(place) - 1
        if offset < 0 or last >= register_count:
            raise DecodePlanError(
                f"{type_} in registers {offset} to {last} of an answer; allowed: within 0 to {register_count - 1}"
            )
    plain = all(_is_plain(place) for place in layout) and _ascends(layout)
    unpack = _plain(layout, register_count) if plain else _permuted(layout, register_count)
    meanings = [(position, _meaning(place)) for position, place in enumerate(layout) if place[1] not in _CODES]
    if not meanings:
        return unpack

    def decode(data: bytes) -> Values:
        values: list[Any] = list(unpack(data))
        for position, mean in meanings:
            values[position] = mean(values[position])
        return tuple(values)

    return decode


def compile_bit_decoder(offsets: Sequence[int], bit_count: int) -> Callable[[bytes], tuple[bool, ...]]:
    """Compile the decoding of one answer with coils or discrete inputs.

    Parameters
    ----------
    offsets
        Distance of each wanted bit from the first of the answer.
    bit_count
        Bits that were asked for.

    Returns
    -------
    callable
        From the packed bytes as on the wire (first bit lowest) to the values. It raises `struct.error` if
        their number is not what `bit_count` bits take.

    Raises
    ------
    DecodePlanError
        If an offset is not within the answer.
    """
    for offset in offsets:
        if not 0 <= offset < bit_count:
            raise DecodePlanError(f"bit {offset} of an answer; allowed: within 0 to {bit_count - 1}")
    masks = [1 << offset for offset in offsets]
    size = (bit_count + 7) // 8

    def decode(data: bytes) -> tuple[bool, ...]:
        if len(data) != size:
            raise struct.error(f"{len(data)} bytes of bits, not {size}")
        bits = int.from_bytes(data, "little")
        return tuple([bits & mask != 0 for mask in masks])

    return decode


def encode(
    type_: RegisterType, value: float | str, word_order: Order = "big", byte_order: Order = "big", length: int = 0
) -> bytes:
    """Encode one value as register bytes on the wire; `length` is that of a text [registers].

    Raises
    ------
    RegisterValueError
        If the value does not fit the type: out of range, or not an integer where one is needed.
    """
    if type_ not in REGISTER_TYPES or type_ == "bit":
        allowed = ", ".join(known for known in REGISTER_TYPES if known != "bit")
        raise RegisterValueError(f"type {type_!r} in registers of its own; allowed: {allowed}")
    try:
        plain = struct.pack(f">{_CODES[type_]}", value) if type_ in _CODES else _coded(type_, value, length)
    except (struct.error, OverflowError, ValueError) as error:
        raise RegisterValueError(f"value {value!r} does not fit {type_}: {error}") from error
    return bytes(plain[position] for position in _positions(len(plain) // 2, word_order, byte_order))


def encode_bits(values: Sequence[bool]) -> bytes:
    """Pack coils or discrete inputs as on the wire: first bit lowest."""
    bits = sum(1 << position for position, value in enumerate(values) if value)
    return bits.to_bytes((len(values) + 7) // 8, "little")


def _part(place: Place) -> int:
    """Which bit of the register, or the length of the text [registers]; 0 where there is neither."""
    return place[4] if len(place) == 5 else 0


def _width(place: Place) -> int:
    return register_count(place[1], _part(place))


def _form(place: Place) -> str:
    """What `struct` takes the bytes for, before they are given their meaning."""
    type_ = place[1]
    if type_ in _CODES:
        return _CODES[type_]
    return "H" if type_ == "bit" else f"{2 * _width(place)}s"


def _meaning(place: Place) -> Callable[[Any], Value]:
    type_ = place[1]
    if type_ == "bit":
        mask = 1 << _part(place)
        return lambda word: word & mask != 0
    if type_ == "string":
        return _text
    if type_ == "hex":
        return lambda data: data.hex(" ", 2)
    return _digits if type_.startswith("bcd") else _groups


def _digits(data: bytes) -> int | None:
    digits = data.hex()
    return int(digits) if digits.isdecimal() else None


def _groups(data: bytes) -> int | None:
    number = 0
    for word in struct.unpack(f">{len(data) // 2}H", data):
        if word >= _GROUP:
            return None
        number = number * _GROUP + word
    return number


def _text(data: bytes) -> str | None:
    try:
        text = data.split(b"\0", 1)[0].decode("ascii").strip()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _coded(type_: RegisterType, value: float | str, length: int) -> bytes:
    """Big-endian bytes; raises ValueError if the value does not fit."""
    if type_ in TEXT_TYPES:
        if not isinstance(value, str):
            raise ValueError("not a text")
        data = bytes.fromhex(value) if type_ == "hex" else value.encode("ascii")
        if len(data) > 2 * length or (type_ == "hex" and len(data) < 2 * length):
            raise ValueError(f"{len(data)} bytes for {length} registers")
        return data.ljust(2 * length, b"\0")
    if not isinstance(value, int) or value < 0:
        raise ValueError("not a whole number from 0")
    width = _DECIMALS[type_]
    digits = f"{value:0{4 * width}d}"
    if len(digits) > 4 * width:
        raise ValueError(f"more than {4 * width} digits")
    if type_.startswith("bcd"):
        return bytes.fromhex(digits)
    return struct.pack(f">{width}H", *(int(digits[4 * n : 4 * n + 4]) for n in range(width)))


def _is_plain(place: Place) -> bool:
    word_order, byte_order = place[2:4]
    return byte_order == "big" and (word_order == "big" or _width(place) == 1)


def _ascends(layout: Sequence[Place]) -> bool:
    return all(before[0] + _width(before) <= after[0] for before, after in pairwise(layout))


def _plain(layout: Sequence[Place], register_count: int) -> Callable[[bytes], Values]:
    parts = [">"]
    here = 0
    for place in layout:
        offset = place[0]
        parts.append(f"{2 * (offset - here)}x{_form(place)}")
        here = offset + _width(place)
    parts.append(f"{2 * (register_count - here)}x")
    return struct.Struct("".join(parts)).unpack


def _permuted(layout: Sequence[Place], register_count: int) -> Callable[[bytes], Values]:
    positions = [
        2 * place[0] + position for place in layout for position in _positions(_width(place), place[2], place[3])
    ]
    pick = itemgetter(*positions)
    unpack = struct.Struct(">" + "".join(_form(place) for place in layout)).unpack
    size = 2 * register_count

    def decode(data: bytes) -> Values:
        if len(data) != size:
            raise struct.error(f"{len(data)} bytes of registers, not {size}")
        return unpack(bytes(pick(data)))

    return decode


def _positions(width: int, word_order: Order, byte_order: Order) -> list[int]:
    """Where on the wire each byte of the big-endian value stands; its own inverse, so it serves both ways."""
    words = range(width) if word_order == "big" else range(width - 1, -1, -1)
    pair = (0, 1) if byte_order == "big" else (1, 0)
    return [2 * word + byte for word in words for byte in pair]
