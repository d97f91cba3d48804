"""The agent's clock: plant time, what is known of how good it is, and when readings have to wait for it.

Invariants

- Time runs on evenly, by the monotonic clock, between two calls of `look`; what the operating system did to its
  clock meanwhile is taken on there, all at once, after everyone has closed what belongs to the time before.
- A simulated plant time (an origin in the past, perhaps at a higher speed) counts as synchronised: simulators
  and agent compute it from the same numbers.
- While the clock was not synchronised and may still be, readings wait in the buffer (`holding`), to be re-timed
  by the monotonic clock. They wait as long as there is no broker anyway, then for so long more, connections that
  break counted together; for good if the time can't be right, since nobody could use them.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable
from pathlib import Path

from protocols.reading import ClockState
from protocols.timebase import TimeBase

_log = logging.getLogger(__name__)

EARLIEST_US = 1_735_689_600_000_000
"""Start of 2025: a clock that shows less was never set."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIMESYNC = Path("/run/systemd/timesync/synchronized")
_TIMEX_BYTES = 512
"""More than `struct timex` takes on any Linux."""
_TIME_ERROR = 5
"""What adjtimex returns while the clock is not synchronised."""
_STEP_US = 1_000
"""Below it, two clocks read one after the other are not said to differ."""
_TOLD_STEP_US = 500_000


def synchronised() -> bool:
    """Whether the operating system says that a time source disciplines the clock."""
    library = ctypes.CDLL(None, use_errno=True)
    state = library.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) if hasattr(library, "adjtimex") else -1
    return _TIMESYNC.exists() if state == -1 else state != _TIME_ERROR


UNKNOWN_BOOT = "unknown"


def boot_id() -> str:
    """Changes at every boot; `UNKNOWN_BOOT` where the system has none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return UNKNOWN_BOOT


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
    hold_s
        How long readings wait for a synchronisation once there is a broker [s]; 0: not at all.
    wall_ns, disciplined
        The operating system's clock [ns UTC], and whether it is synchronised.
    """

    def __init__(
        self,
        timebase: TimeBase,
        simulated: bool,
        hold_s: float = 0.0,
        wall_ns: Callable[[], int] = time.time_ns,
        disciplined: Callable[[], bool] = synchronised,
    ) -> None:
        self.timebase = timebase
        self.steps = 0
        """How often the clock was set."""
        self._simulated = simulated
        self._hold_s = 0.0 if simulated else hold_s
        self._wall_ns = wall_ns
        self._disciplined = disciplined
        self._offset_us = self._observed_us()
        self._synchronised = simulated or disciplined()
        self._earlier_s = self._latest_s = 0.0
        self.holding = self._must_hold(self._synchronised, self._offset_us, None)

    def now_us(self) -> int:
        """Plant time [µs UTC]."""
        return self.plant_us(time.monotonic_ns())

    def real_us(self) -> int:
        """Real time [µs UTC]."""
        return time.monotonic_ns() // 1000 + self._offset_us

    def plant_us(self, monotonic_ns: int) -> int:
        """Plant time [µs UTC] at a time of the monotonic clock [ns]."""
        return self.timebase.plant_us(monotonic_ns // 1000 + self._offset_us)

    @property
    def offset_us(self) -> int | None:
        """Real time at the zero of the monotonic clock [µs UTC]; None while that is not known well."""
        return self._offset_us if self._synchronised else None

    def state(self) -> ClockState:
        """State of the clock."""
        return ClockState(self._synchronised, BOOT_ID, time.monotonic_ns() // 1000)

    def look(self, connected_s: float | None, before: Callable[[], None]) -> None:
        """Take on what the operating system says of its clock now.

        Parameters
        ----------
        connected_s
            How long there has been a connection to the broker [s]; None: there is none.
        before
            Called before anything changes, if something does.
        """
        synchronised_now = self._simulated or self._disciplined()
        offset_us = self._observed_us()
        step_us = offset_us - self._offset_us
        if abs(step_us) < _STEP_US:
            offset_us = self._offset_us
        holding = self._must_hold(synchronised_now, offset_us, self._in_all(connected_s))
        if (synchronised_now, offset_us, holding) == (self._synchronised, self._offset_us, self.holding):
            return
        before()
        if abs(step_us) >= _TOLD_STEP_US:
            _log.warning("the clock was set by %+.3f s", step_us / 1e6)
        if synchronised_now != self._synchronised:
            _log.info("the clock is %s", "synchronised" if synchronised_now else "not synchronised any more")
        if offset_us != self._offset_us:
            self.steps += 1
        self._synchronised, self._offset_us, self.holding = synchronised_now, offset_us, holding

    def _in_all(self, connected_s: float | None) -> float | None:
        """How long there was a connection since readings began to wait [s]; None if there is none now."""
        latest_s, self._latest_s = self._latest_s, connected_s or 0.0
        if not self.holding:
            self._earlier_s = 0.0
        elif self._latest_s < latest_s:
            self._earlier_s += latest_s
        return None if connected_s is None else self._earlier_s + connected_s

    def _must_hold(self, synchronised_now: bool, offset_us: int, connected_s: float | None) -> bool:
        if synchronised_now or self._hold_s <= 0:
            return False
        waiting = connected_s is None or connected_s < self._hold_s
        return waiting or time.monotonic_ns() // 1000 + offset_us < EARLIEST_US

    def _observed_us(self) -> int:
        """Real time at the zero of the monotonic clock [µs UTC], read without an interruption between the two."""
        best: tuple[int, int] | None = None
        for _ in range(5):
            before_ns = time.monotonic_ns()
            wall_ns = self._wall_ns()
            after_ns = time.monotonic_ns()
            took_ns = after_ns - before_ns
            if best is None or took_ns < best[0]:
                best = took_ns, (wall_ns - (before_ns + after_ns) // 2) // 1000
        assert best is not None
        return best[1]
