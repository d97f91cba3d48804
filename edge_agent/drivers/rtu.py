"""Serial Modbus frames: the one answer that fits the request is found, all else on the line is noise.

Serial frames carry no transaction id and no length, so what comes is held against what was asked: unit,
function and length must be those of the request, and the checksum right. Garbage, echoes, halves of frames and
late answers of other units are passed over, wherever they stand.
"""

from __future__ import annotations

import time

from pymodbus.framer import FramerBase, FramerRTU
from pymodbus.pdu import DecodePDU, ModbusPDU

_REGISTERS = {3, 4}
_ERROR = 0x80
_CHECKSUM_BYTES = 2
_HEAD_BYTES = 3
_REFUSAL_BYTES = 5


class SerialFramer(FramerBase):
    """Framer of one line; knows the request in flight.

    Attributes
    ----------
    heard_at
        When the line was last not silent (monotonic) [s].
    """

    def __init__(self, decoder: DecodePDU) -> None:
        super().__init__(decoder)
        self.heard_at = 0.0
        self._answer_head = b""
        self._answer_bytes = 0
        self._refusal_head = b""

    def buildFrame(self, message: ModbusPDU) -> bytes:
        """Frame a request, and remember what would answer it."""
        function, unit = message.function_code, message.dev_id
        size = 2 * message.count if function in _REGISTERS else (message.count + 7) // 8
        self._answer_head = bytes((unit, function, size))
        self._answer_bytes = _HEAD_BYTES + size + _CHECKSUM_BYTES
        self._refusal_head = bytes((unit, function | _ERROR))
        body = bytes((unit, function)) + message.encode()
        return body + checksum(body)

    def handleFrame(self, data: bytes, exp_devid: int, exp_tid: int) -> tuple[int, ModbusPDU | None]:
        """Find the answer in what has come since the request; what is no answer is kept, for the rest may come."""
        self.heard_at = time.monotonic()
        if not self._answer_head:
            return len(data), None
        frame = _find(data, self._answer_head, self._answer_bytes) or _find(data, self._refusal_head, _REFUSAL_BYTES)
        if frame is None:
            return 0, None
        pdu = self.decoder.decode(frame[1:-_CHECKSUM_BYTES])
        if pdu is not None:
            pdu.dev_id = frame[0]
            pdu.transaction_id = 0
        return len(data), pdu


def checksum(body: bytes) -> bytes:
    """Checksum of a serial frame, as on the wire."""
    return FramerRTU.compute_CRC(body).to_bytes(_CHECKSUM_BYTES, "big")


def _find(data: bytes, head: bytes, size: int) -> bytes | None:
    start = data.find(head)
    while 0 <= start <= len(data) - size:
        frame = data[start : start + size]
        if checksum(frame[:-_CHECKSUM_BYTES]) == frame[-_CHECKSUM_BYTES:]:
            return frame
        start = data.find(head, start + 1)
    return None
