"""Decoders and the encoder against a plain twin that knows nothing of `struct` formats."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from itertools import product
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocols.errors import DecodePlanError, RegisterValueError
from protocols.modbus.words import (
    DECIMAL_TYPES,
    NUMBER_TYPES,
    REGISTER_TYPES,
    TEXT_TYPES,
    Order,
    Place,
    RegisterType,
    compile_bit_decoder,
    compile_decoder,
    encode,
    encode_bits,
    register_count,
)

ORDERS: tuple[Order, ...] = get_args(Order)
WIDTHS = {"16": 1, "32": 2, "48": 3, "64": 4}


def naive(data: bytes, place: Place) -> int | float | str | None:
    """Decode one value word by word."""
    offset, type_, word_order, byte_order, *part = place
    width = 1 if type_ == "bit" else WIDTHS.get(type_[-2:]) or part[0]
    words = [data[2 * i : 2 * i + 2] for i in range(offset, offset + width)]
    if byte_order == "little":
        words = [word[::-1] for word in words]
    if word_order == "little":
        words.reverse()
    if type_ == "bit":
        return f"{int.from_bytes(words[0], 'big'):016b}"[15 - part[0]] == "1"
    if type_ == "hex":
        return " ".join(f"{word[0]:02x}{word[1]:02x}" for word in words)
    if type_ == "string":
        text = ""
        for byte in b"".join(words):
            if byte == 0:
                break
            text += chr(byte) if byte < 128 else "\x00"
        return text.strip() if text.strip().isprintable() else None
    if type_.startswith("bcd"):
        digits = [nibble for byte in b"".join(words) for nibble in (byte >> 4, byte & 15)]
        return sum(d * 10**n for n, d in enumerate(digits[::-1])) if max(digits) < 10 else None
    if type_.startswith("mod10k"):
        groups = [int.from_bytes(word, "big") for word in words]
        return sum(g * 10_000**n for n, g in enumerate(groups[::-1])) if max(groups) < 10_000 else None
    number = int.from_bytes(b"".join(words), "big", signed=type_.startswith("int"))
    if type_ == "float32":
        return float(struct.unpack("=f", struct.pack("=I", number))[0])
    if type_ == "float64":
        return float(struct.unpack("=d", struct.pack("=Q", number))[0])
    return number


def same(one: Sequence[object], other: Sequence[object]) -> bool:
    """Equal in type and value, NaN equal to NaN."""
    return len(one) == len(other) and all(
        type(a) is type(b) and (a == b or (a != a and b != b)) for a, b in zip(one, other, strict=True)
    )


@st.composite
def places(draw: st.DrawFn, here: int, types: Sequence[RegisterType], orders: Sequence[Order]) -> Place:
    type_ = draw(st.sampled_from(types))
    place: Place = (here, type_, draw(st.sampled_from(orders)), draw(st.sampled_from(orders)))
    if type_ == "bit":
        return (*place[:4], draw(st.integers(0, 15)))
    return (*place[:4], draw(st.integers(1, 5))) if type_ in TEXT_TYPES else place


def width(place: Place) -> int:
    return register_count(place[1], place[4] if len(place) == 5 else 0)


@st.composite
def layouts(
    draw: st.DrawFn, orders: Sequence[Order] = ORDERS, types: Sequence[RegisterType] = REGISTER_TYPES
) -> tuple[list[Place], int]:
    """Ascending places with holes, and the length of the answer."""
    here = 0
    layout: list[Place] = []
    for _ in range(draw(st.integers(0, 12))):
        here += draw(st.integers(0, 3))
        layout.append(draw(places(here, types, orders)))
        here += width(layout[-1])
    return layout, here + draw(st.integers(0, 3))


def answer(count: int, seed: int) -> bytes:
    """Bytes of which many are digits or letters, so that the coded types have values too."""
    chance = random.Random(seed)
    kinds = [lambda: chance.randbytes(2), lambda: chance.choice([b"\x12\x34", b"Ab", b" 7", b"z\0", b"\x03\xe8"])]
    return b"".join(chance.choice(kinds)() for _ in range(count))


@given(layouts(), st.integers(0, 2**32))
@example(([(0, "string", "big", "big", 2), (2, "bcd32", "big", "big"), (4, "mod10k32", "big", "big")], 6), 5)
def test_every_layout_decodes_as_the_plain_twin_does(case: tuple[list[Place], int], seed: int) -> None:
    layout, count = case
    data = answer(count, seed)
    assert same(compile_decoder(layout, count)(data), [naive(data, place) for place in layout])


@given(layouts(), st.randoms(use_true_random=False))
def test_values_come_in_the_order_of_the_layout_also_unsorted_and_repeated(
    case: tuple[list[Place], int], shuffle: random.Random
) -> None:
    layout, count = case
    layout = layout + layout[:3]
    shuffle.shuffle(layout)
    data = answer(count, 7)
    assert same(compile_decoder(layout, count)(data), [naive(data, place) for place in layout])


@given(layouts(orders=("big",), types=NUMBER_TYPES))
def test_a_layout_in_big_order_is_one_call_of_a_precompiled_struct(case: tuple[list[Place], int]) -> None:
    decode = compile_decoder(*case)
    assert isinstance(getattr(decode, "__self__", None), struct.Struct)


def test_word_order_means_nothing_to_single_registers() -> None:
    decode = compile_decoder([(1, "int16", "little", "big"), (2, "uint16", "little", "big")], 3)
    assert isinstance(getattr(decode, "__self__", None), struct.Struct)
    assert decode(bytes.fromhex("0000 FFFF FFFF")) == (-1, 65_535)


@given(layouts(), st.integers(-3, 3).filter(bool))
def test_an_answer_of_another_length_is_refused(case: tuple[list[Place], int], difference: int) -> None:
    layout, count = case
    decode = compile_decoder(layout, count)
    with pytest.raises(struct.error):
        decode(bytes(max(2 * count + difference, 1) if count else 2))


@pytest.mark.parametrize(("word_order", "byte_order"), list(product(ORDERS, ORDERS)))
@pytest.mark.parametrize("type_", [type_ for type_ in REGISTER_TYPES if type_ != "bit"])
@given(data=st.data())
def test_what_is_encoded_is_decoded_again(
    type_: RegisterType, word_order: Order, byte_order: Order, data: st.DataObject
) -> None:
    length = data.draw(st.integers(1, 8)) if type_ in TEXT_TYPES else 0
    bits = 0 if length else int(type_[-2:])
    value: float | str
    if type_ == "string":
        value = data.draw(st.text("abcXYZ019-/ ", max_size=2 * length).map(str.strip))
    elif type_ == "hex":
        value = data.draw(st.binary(min_size=2 * length, max_size=2 * length)).hex(" ", 2)
    elif type_ in DECIMAL_TYPES:
        value = data.draw(st.integers(0, 10 ** (bits // 4) - 1))
    elif type_.startswith("float"):
        value = data.draw(st.floats(width=64 if bits == 64 else 32))
    elif type_.startswith("u"):
        value = data.draw(st.integers(0, 2**bits - 1))
    else:
        value = data.draw(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    encoded = encode(type_, value, word_order, byte_order, length)
    place: Place = (0, type_, word_order, byte_order, length) if length else (0, type_, word_order, byte_order)
    assert len(encoded) == 2 * width(place)
    assert same([naive(encoded, place)], [value])
    assert same(compile_decoder([place], width(place))(encoded), [value])


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("int16", 2**15),
        ("int16", -(2**15) - 1),
        ("uint16", -1),
        ("uint16", 65_536),
        ("int32", 2**31),
        ("uint32", 2**32),
        ("int64", -(2**63) - 1),
        ("uint64", 2**64),
        ("uint32", 1.5),
        ("uint32", 2.0),
        ("float32", 1e39),
        ("bool", True),
        ("bit", True),
        ("bcd16", 10_000),
        ("bcd32", -1),
        ("bcd32", 1.0),
        ("mod10k48", 10**12),
        ("mod10k64", "12"),
        ("string", "a"),
        ("string", 5),
        ("hex", "12 34"),
    ],
)
def test_a_value_that_does_not_fit_its_register_is_refused(type_: RegisterType, value: float | str) -> None:
    with pytest.raises(RegisterValueError, match=type_):
        encode(type_, value)


def test_word_orders_look_on_the_wire_as_makers_print_them() -> None:
    assert encode("uint32", 0x0A0B0C0D) == bytes.fromhex("0A0B 0C0D")
    assert encode("uint32", 0x0A0B0C0D, word_order="little") == bytes.fromhex("0C0D 0A0B")
    assert encode("uint32", 0x0A0B0C0D, byte_order="little") == bytes.fromhex("0B0A 0D0C")
    assert encode("uint32", 0x0A0B0C0D, word_order="little", byte_order="little") == bytes.fromhex("0D0C 0B0A")
    assert encode("uint64", 0x0102030405060708, word_order="little") == bytes.fromhex("0708 0506 0304 0102")


@pytest.mark.parametrize(
    ("place", "registers", "value"),
    [
        ((0, "bcd16", "big", "big"), "1234", 1234),
        ((0, "bcd16", "big", "big"), "123A", None),
        ((0, "bcd32", "big", "big"), "1234 5678", 12_345_678),
        ((0, "bcd32", "little", "big"), "5678 1234", 12_345_678),
        ((0, "bcd32", "big", "big"), "FFFF FFFF", None),
        ((0, "mod10k32", "big", "big"), "04D2 162E", 12_345_678),
        ((0, "mod10k32", "little", "big"), "162E 04D2", 12_345_678),
        ((0, "mod10k32", "big", "big"), "2710 0000", None),
        ((0, "mod10k64", "big", "big"), "0000 0001 0000 0005", 100_000_005),
        ((0, "bit", "big", "big", 0), "0001", True),
        ((0, "bit", "big", "big", 15), "7FFF", False),
        ((0, "bit", "big", "little", 0), "0100", True),
        ((0, "string", "big", "big", 3), "4142 4320 0058", "ABC"),
        ((0, "string", "big", "little", 2), "4241 0043", "ABC"),
        ((0, "string", "big", "big", 2), "0000 4142", ""),
        ((0, "string", "big", "big", 1), "C328", None),
        ((0, "string", "big", "big", 1), "410A", "A"),
        ((0, "string", "big", "big", 1), "0741", None),
        ((0, "hex", "big", "big", 2), "7FC0 000A", "7fc0 000a"),
    ],
)
def test_digits_bits_and_text_stand_as_makers_print_them(place: Place, registers: str, value: object) -> None:
    data = bytes.fromhex(registers)
    (found,) = compile_decoder([place], len(data) // 2)(data)
    assert same([found], [value])


def test_all_bits_of_one_register_are_read_at_once() -> None:
    decode = compile_decoder([(0, "bit", "big", "big", n) for n in range(16)], 1)
    assert decode(bytes.fromhex("8005")) == tuple(n in (0, 2, 15) for n in range(16))


def test_nan_and_infinity_come_out_as_they_are() -> None:
    data = bytes.fromhex("7FC0 0000 7F80 0000 FF80 0000")
    decode = compile_decoder([(i, "float32", "big", "big") for i in (0, 2, 4)], 6)
    nan, high, low = decode(data)
    assert isinstance(nan, float)
    assert math.isnan(nan)
    assert (high, low) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    "place",
    [
        (-1, "uint16", "big", "big"),
        (4, "uint16", "big", "big"),
        (3, "uint32", "big", "big"),
        (1, "float64", "little", "big"),
        (0, "bool", "big", "big"),
        (3, "mod10k32", "big", "big"),
        (0, "string", "big", "big"),
        (2, "string", "big", "big", 3),
        (0, "bit", "big", "big", 16),
    ],
)
def test_a_value_outside_the_answer_is_refused_before_any_request(place: Place) -> None:
    with pytest.raises(DecodePlanError, match=place[1]):
        compile_decoder([place], 4)


@given(st.lists(st.booleans(), min_size=1, max_size=70), st.data())
def test_bits_come_out_as_they_were_packed(bits: list[bool], data: st.DataObject) -> None:
    offsets = data.draw(st.lists(st.integers(0, len(bits) - 1), max_size=10))
    packed = encode_bits(bits)
    twin = [bool(packed[offset // 8] >> offset % 8 & 1) for offset in offsets]
    assert list(compile_bit_decoder(offsets, len(bits))(packed)) == twin == [bits[offset] for offset in offsets]


def test_bits_stand_as_in_the_modbus_specification() -> None:
    """Coils 20 to 38 of the specification's example: CD 6B 05, the first coil in the lowest bit."""
    decode = compile_bit_decoder([0, 1, 2, 8, 18], 19)
    assert decode(bytes.fromhex("CD6B05")) == (True, False, True, True, True)


def test_bits_of_another_length_or_place_are_refused() -> None:
    with pytest.raises(struct.error):
        compile_bit_decoder([0], 9)(b"\x01")
    with pytest.raises(DecodePlanError, match="bit 9"):
        compile_bit_decoder([9], 9)
