"""Frames that real devices sent or makers printed decode to the values that they gave."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from protocols.meters import catalogue
from protocols.modbus.words import Place, compile_decoder

CAPTURES = Path(__file__).parents[2] / "captures" / "modbus_rtu.toml"
FRAMES: list[dict[str, Any]] = tomllib.loads(CAPTURES.read_text(encoding="utf-8"))["frame"]
FUNCTIONS = {3: "holding", 4: "input"}


def checksum(body: bytes) -> bytes:
    """CRC of Modbus serial lines."""
    crc = 0xFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc.to_bytes(2, "little")


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: str(frame["name"]))
def test_a_frame_from_elsewhere_decodes_to_the_value_it_was_printed_with(frame: dict[str, Any]) -> None:
    request, answer = bytes.fromhex(frame["request"]), bytes.fromhex(frame["answer"])
    assert request[-2:] == checksum(request[:-2])
    assert (answer[-2:] == checksum(answer[:-2])) is not frame.get("checksum_misprinted", False)
    assert answer[:2] == request[:2]
    first, count = int.from_bytes(request[2:4], "big"), int.from_bytes(request[4:6], "big")
    data = answer[3:-2]
    assert answer[2] == len(data) == 2 * count
    for value in frame["value"]:
        place: Place = (value["address"] - first, value["type"], value.get("word_order", "big"), "big")
        if "model" in value:
            model = catalogue.model(value["model"])
            field = model.field(value["field"])
            assert (field.table, field.address) == (FUNCTIONS[request[1]], value["address"])
            place = (field.address - first, field.type, *model.orders(field))
        (raw,) = compile_decoder([place], count)(data)
        last_digit = 10 ** -len(value["shown"].partition(".")[2])
        assert raw == pytest.approx(float(value["shown"]), abs=last_digit)


def test_the_word_order_of_the_suto_meter_is_the_one_its_manual_prints() -> None:
    """S418 manual, 9.3: read from the device 0A 11 42 C5, in big-endian order 42 C5 0A 11."""
    model = catalogue.model("suto_s418")
    field = model.field("normal_volume_flow")
    (mine,) = compile_decoder([(0, field.type, *model.orders(field))], 2)(bytes.fromhex("0A11 42C5"))
    (plain,) = compile_decoder([(0, "float32", "big", "big")], 2)(bytes.fromhex("42C5 0A11"))
    assert mine == plain
