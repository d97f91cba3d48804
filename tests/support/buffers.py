"""What tests put into a buffer."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from edge_agent.buffer.records import Draft
from protocols.birth import Point, Schema
from protocols.reading import ClockState, Columns

LOG_HEADER_BYTES = 32
FRAME_BYTES = 24 + 4096
SCHEMA = Schema(
    site="plant",
    points=(
        Point(
            device="mill",
            tag="energy",
            quantity="active_energy",
            unit="kWh",
            kind="counter",
            medium="electricity",
            poll_interval_s=1,
            gap_limit_s=10,
        ),
    ),
)


def numbered(number: int, readings: int = 40) -> Draft:
    """A batch of one counter that starts at so many microseconds and hardly compresses."""
    values = [random.random() for _ in range(readings)]
    columns = Columns([0] * readings, list(range(readings)), values)
    return Draft(SCHEMA.id(), 1000, ClockState(True, "boot", 5), number, {"float": columns})


def commits(path: Path) -> list[int]:
    """Where in the log of a database each transaction ends [B]."""
    log = Path(f"{path}-wal")
    content = log.read_bytes() if log.exists() else b""
    salts = content[16:24]
    return [
        at + FRAME_BYTES
        for at in range(LOG_HEADER_BYTES, len(content) - FRAME_BYTES + 1, FRAME_BYTES)
        if content[at + 8 : at + 16] == salts and struct.unpack(">I", content[at + 4 : at + 8])[0]
    ]
