"""What the bytes of Modbus answers mean: decoders compiled once per request, and the encoder for simulators.

Modbus sends registers of 16 bits, high byte first. A wider value takes several registers; makers differ in
their order: ``word_order`` is the order of the registers (big: most significant first), ``byte_order`` that
of the two bytes in a register. Scaling is not done here, and NaN and infinity come out as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Literal, get_args

from protocols.errors import DecodePlanError, RegisterValueError

RegisterType = Literal["bool", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
Order = Literal["big", "little"]
Place = tuple[int, RegisterType, Order, Order]
"""Offset from the first register of the answer, type, word order, byte order."""

Values = tuple[int | float | bool, ...]

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
REGISTER_TYPES: tuple[RegisterType, ...] = tuple(_CODES)
"""Types of values in registers: all but ``bool``."""

assert set(get_args(RegisterType)) == {"bool", *REGISTER_TYPES}


def register_count(type_: RegisterType) -> int:
    """How many table entries a value takes: registers, or one coil for a ``bool``."""
    return 1 if type_ == "bool" else struct.calcsize(f">{_CODES[type_]}") // 2


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
        From the register bytes as on the wire to the values. It raises `struct.error` if their number is not
        twice `register_count`.

    Raises
    ------
    DecodePlanError
        If a value does not lie within the answer, or its type has no place in registers.
    """
    for offset, type_, _, _ in layout:
        if type_ not in _CODES:
            raise DecodePlanError(f"type {type_!r} in registers; allowed: {', '.join(REGISTER_TYPES)}")
        last = offset + _width(type_) - 1
        if offset < 0 or last >= register_count:
            raise DecodePlanError(
                f"{type_} in registers {offset} to {last} of an answer; allowed: within 0 to {register_count - 1}"
            )
    if all(_is_plain(place) for place in layout) and _ascends(layout):
        return _plain(layout, register_count)
    return _permuted(layout, register_count)


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


def encode(type_: RegisterType, value: float, word_order: Order = "big", byte_order: Order = "big") -> bytes:
    """Encode one value as register bytes on the wire.

    Raises
    ------
    RegisterValueError
        If the value does not fit the type: out of range, or not an integer where one is needed.
    """
    if type_ not in _CODES:
        raise RegisterValueError(f"type {type_!r} in registers; allowed: {', '.join(REGISTER_TYPES)}")
    try:
        plain = struct.pack(f">{_CODES[type_]}", value)
    except (struct.error, OverflowError) as error:
        raise RegisterValueError(f"value {value!r} does not fit {type_}: {error}") from error
    return bytes(plain[position] for position in _positions(_width(type_), word_order, byte_order))


def encode_bits(values: Sequence[bool]) -> bytes:
    """Pack coils or discrete inputs as on the wire: first bit lowest."""
    bits = sum(1 << position for position, value in enumerate(values) if value)
    return bits.to_bytes((len(values) + 7) // 8, "little")


def _width(type_: RegisterType) -> int:
    return register_count(type_)


def _is_plain(place: Place) -> bool:
    _, type_, word_order, byte_order = place
    return byte_order == "big" and (word_order == "big" or _width(type_) == 1)


def _ascends(layout: Sequence[Place]) -> bool:
    return all(before[0] + _width(before[1]) <= after[0] for before, after in pairwise(layout))


def _plain(layout: Sequence[Place], register_count: int) -> Callable[[bytes], Values]:
    parts = [">"]
    here = 0
    for offset, type_, _, _ in layout:
        parts.append(f"{2 * (offset - here)}x{_CODES[type_]}")
        here = offset + _width(type_)
    parts.append(f"{2 * (register_count - here)}x")
    return struct.Struct("".join(parts)).unpack


def _permuted(layout: Sequence[Place], register_count: int) -> Callable[[bytes], Values]:
    positions = [
        2 * offset + position
        for offset, type_, word_order, byte_order in layout
        for position in _positions(_width(type_), word_order, byte_order)
    ]
    pick = itemgetter(*positions)
    unpack = struct.Struct(">" + "".join(_CODES[type_] for _, type_, _, _ in layout)).unpack
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
