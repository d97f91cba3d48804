"""What a Modbus unit says of itself (function 43, type 14), where it says anything."""

from __future__ import annotations

from edge_agent.scanning.framing import MEI_TYPE
from edge_agent.scanning.line import Line

_BASIC, _REGULAR = 1, 2
_NAMES = {
    0: "vendor",
    1: "product",
    2: "revision",
    3: "url",
    4: "product_name",
    5: "model",
    6: "application",
}
_MOST_REQUESTS = 6
_HEAD_BYTES = 6
_CONFORMITY, _MORE, _NEXT, _COUNT = 2, 3, 4, 5
_CATEGORY = 0x7F
"""Of the conformity level; the highest bit says whether single objects can be asked for."""


async def ask(line: Line, unit_id: int) -> dict[str, str]:
    """Texts by name; empty if the unit gives none.

    Raises
    ------
    OutOfRequestsError, ScanError
        As for `Line.read`.
    """
    found: dict[str, str] = {}
    category, first = _BASIC, 0
    for _ in range(_MOST_REQUESTS):
        data = await line.identification(unit_id, category, first)
        if data is None or not _is_whole(data):
            break
        found |= _texts(data)
        if data[_MORE] and data[_NEXT] > first:
            first = data[_NEXT]
        elif category == _BASIC and data[_CONFORMITY] & _CATEGORY >= _REGULAR:
            category, first = _REGULAR, 0
        else:
            break
    return found


def _is_whole(data: bytes) -> bool:
    if len(data) < _HEAD_BYTES or data[0] != MEI_TYPE:
        return False
    end = _HEAD_BYTES
    for _ in range(data[_COUNT]):
        if len(data) < end + 2:
            return False
        end += 2 + data[end + 1]
    return len(data) >= end


def _texts(data: bytes) -> dict[str, str]:
    found = {}
    at = _HEAD_BYTES
    for _ in range(data[_COUNT]):
        number, length = data[at], data[at + 1]
        text = data[at + 2 : at + 2 + length].decode("utf-8", "replace").replace("\0", " ").strip()
        at += 2 + length
        if number in _NAMES and text:
            found[_NAMES[number]] = "".join(letter if letter.isprintable() else "?" for letter in text)
    return found
