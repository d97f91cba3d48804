"""A gateway's clock that a test can set."""

from __future__ import annotations

import time

from protocols.timebase import US


class Wall:
    """The operating system's clock: as it is, but for what the test did to it."""

    def __init__(self, shift_s: float = 0.0, *, disciplined: bool = True) -> None:
        self.shift_us = round(shift_s * US)
        self.disciplined = disciplined

    def ns(self) -> int:
        """What it shows [ns UTC]."""
        return time.time_ns() + self.shift_us * 1000

    def is_disciplined(self) -> bool:
        """Whether it is said to be synchronised."""
        return self.disciplined
