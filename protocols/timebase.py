"""Plant time: real time, or a simulated time that starts in the past and runs faster.

Times are integers, microseconds since 1970-01-01 UTC, everywhere in the product. A time base is a pure
function of the real clock, so that simulators and agents that are given the same three numbers agree.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from protocols.errors import ProtocolError

US = 1_000_000
"""Microseconds in a second."""


@dataclass(frozen=True, slots=True)
class TimeBase:
    """``plant = origin + (real - anchor) * speed``.

    Attributes
    ----------
    origin_us
        Plant time at the anchor [µs UTC].
    anchor_us
        Real time of the anchor [µs UTC].
    speed
        Plant seconds per real second; 1 is real time.
    """

    origin_us: int = 0
    anchor_us: int = 0
    speed: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.speed) and 0 < self.speed <= 100_000):
            raise ProtocolError(f"clock speed {self.speed!r} is not allowed; allowed: above 0, up to 100000")

    def plant_us(self, real_us: int) -> int:
        """Plant time [µs UTC] at a real time [µs UTC]."""
        return self.origin_us + round((real_us - self.anchor_us) * self.speed)

    def real_us(self, plant_us: int) -> int:
        """Real time [µs UTC] at a plant time [µs UTC]."""
        return self.anchor_us + round((plant_us - self.origin_us) / self.speed)

    def real_seconds(self, plant_seconds: float) -> float:
        """How long a span of plant time takes in real seconds."""
        return plant_seconds / self.speed

    def now_us(self) -> int:
        """Plant time now [µs UTC]."""
        return self.plant_us(time.time_ns() // 1000)


REAL_TIME = TimeBase()
"""The real clock."""
