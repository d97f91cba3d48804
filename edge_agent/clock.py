"""The agent's clock: plant time, and what is known of how good it is.

A simulated plant time (an origin in the past, perhaps at a higher speed) counts as synchronised: simulators
and agent compute it from the same numbers.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from protocols.reading import ClockState
from protocols.timebase import TimeBase

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIMESYNC = Path("/run/systemd/timesync/synchronized")
_TIMEX_BYTES = 512
"""More than `struct timex` takes on any Linux."""
_TIME_ERROR = 5
"""What adjtimex returns while the clock is not synchronised."""
_RECHECK_S = 10.0


def synchronised() -> bool:
    """Whether the operating system says that a time source disciplines the clock."""
    library = ctypes.CDLL(None, use_errno=True)
    state = library.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) if hasattr(library, "adjtimex") else -1
    return _TIMESYNC.exists() if state == -1 else state != _TIME_ERROR


def boot_id() -> str:
    """Changes at every boot; "unknown" where the system has none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


BOOT_ID = boot_id()
"""Of this boot, read once: a process does not outlive it."""


class Clock:
    """Plant time and its state.

    Parameters
    ----------
    timebase
        How plant time follows from real time.
    simulated
        Whether plant time is not the real time.
    """

    def __init__(self, timebase: TimeBase, simulated: bool) -> None:
        self.timebase = timebase
        self._simulated = simulated
        self._synchronised = True
        self._checked_at: float | None = None

    def now_us(self) -> int:
        """Plant time [µs UTC]."""
        return self.timebase.now_us()

    def state(self) -> ClockState:
        """State of the clock now; asks the operating system every few seconds."""
        now = time.monotonic()
        if not self._simulated and (self._checked_at is None or now - self._checked_at > _RECHECK_S):
            self._synchronised = synchronised()
            self._checked_at = now
        return ClockState(self._synchronised, BOOT_ID, time.monotonic_ns() // 1000)
