"""What a scan needs beyond the driver's serial framing: answers of no fixed length, and who answered late."""

from __future__ import annotations

import time
from collections.abc import Callable

from pymodbus.pdu import DecodePDU, ModbusPDU

from edge_agent.drivers.rtu import SerialFramer, checksum

FUNCTION = 0x2B
MEI_TYPE = 0x0E
_ERROR = 0x80
_READS = {1, 2, 3, 4}
_HEAD_BYTES = 8
"""Unit, function, type, category, conformity, more follows, next object, number of objects."""
_CHECKSUM_BYTES = 2
_NEVER = 1 << 20
_SHORT_BYTES = (5, 6, 7)
"""A refusal, an answer with one coil, one with one register."""
_LATEST_BYTES = 64


class Identification(ModbusPDU):
    """An answer to function 43, left as it came."""

    function_code = FUNCTION
    raw: bytes = b""

    def decode(self, data: bytes) -> None:
        """Keep all after the function code."""
        self.raw = data


class ScanFramer(SerialFramer):
    """Framer of a serial line that is scanned.

    Parameters
    ----------
    decoder
        Of the client.
    stray
        Called with the unit id of a whole short answer that is not the one waited for.
    """

    def __init__(self, decoder: DecodePDU, stray: Callable[[int], None]) -> None:
        super().__init__(decoder)
        self._stray = stray
        self._identifying = False

    def buildFrame(self, message: ModbusPDU) -> bytes:  # noqa: D102 (as in the parent)
        self._identifying = message.function_code == FUNCTION
        if not self._identifying:
            return super().buildFrame(message)
        self._answer_head = bytes((message.dev_id, FUNCTION, MEI_TYPE))
        self._answer_bytes = _NEVER
        self._refusal_head = bytes((message.dev_id, FUNCTION | _ERROR))
        body = bytes((message.dev_id, FUNCTION)) + message.encode()
        return body + checksum(body)

    def handleFrame(self, data: bytes, exp_devid: int, exp_tid: int) -> tuple[int, ModbusPDU | None]:  # noqa: D102
        if self._identifying:
            start = data.find(self._answer_head)
            self._answer_bytes = _size(data[start:]) if start >= 0 else _NEVER
        used, pdu = super().handleFrame(data, exp_devid, exp_tid)
        if pdu is None:
            self._look_for_strays(data[-_LATEST_BYTES:], exp_devid)
        return used, pdu

    def _look_for_strays(self, data: bytes, expected: int) -> None:
        for start in range(len(data) - _SHORT_BYTES[0] + 1):
            if data[start] == expected or data[start + 1] & ~_ERROR not in _READS:
                continue
            for size in _SHORT_BYTES:
                frame = data[start : start + size]
                if len(frame) == size and checksum(frame[:-_CHECKSUM_BYTES]) == frame[-_CHECKSUM_BYTES:]:
                    self._stray(frame[0])
                    self.heard_at = time.monotonic()


def _size(data: bytes) -> int:
    """Length of the identification that data begins with, a number out of reach while that is not known."""
    if len(data) < _HEAD_BYTES:
        return _NEVER
    end = _HEAD_BYTES
    for _ in range(data[_HEAD_BYTES - 1]):
        if len(data) < end + 2:
            return _NEVER
        end += 2 + data[end + 1]
    return end + _CHECKSUM_BYTES
