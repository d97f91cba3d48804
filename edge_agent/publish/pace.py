"""How many messages of the backlog may be under way, so that live ones are committed as promptly as ever.

The law

- The latency of a message is the time from its first publication to the word that it is committed (where the
  broker's word is enough: to that). Backlog and live messages wait in one queue, so both show it.
- The base is the least latency seen: what it takes without a queue. The reference is half as much again, and at
  least `LEAST_REFERENCE_S`. Above it a queue is growing that live messages stand in.
- The window grows round by round while the latency is within the reference, by a step that doubles each time.
  When the latency is beyond it, the window shrinks by as much, and the step is small again.
- Each decision sees what the last one did: a round counts messages that were published in it, and after the
  window has shrunk the next round begins when the backlog fits into it again.
- It grows only if it was used, and never falls below `_FLOOR`: the backlog never stands still.
- A latency seen with the window at its floor is not the backlog's doing: the base goes up towards it. Thus a
  store that is slow by nature is not taken for one that is overloaded.
"""

from __future__ import annotations

LEAST_REFERENCE_S = 0.5
"""Delay that no live reading notices [s]: half of what it waits in its batch by default."""
_REFERENCE = 1.5
"""The reference as a multiple of the base: a queue of half the base keeps the store busy."""
_FLOOR = 4
_LEAST_SHRINK, _MOST_SHRINK = 0.9, 0.3
_FIRST_STEP = 32
"""Part of the window that it first grows by after it has shrunk: 1 / 32."""
_LEARN = 0.25
"""Share of a difference that the base goes up by."""
_ENOUGH = 16
"""Messages that show that the latency is too long; that it is not takes a whole window."""


class Pace:
    """The window of the backlog.

    Parameters
    ----------
    limit
        Most that it may be.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._floor = min(_FLOOR, self._limit)
        self._began: float | None = None
        self.restart(0.0)

    def restart(self, now: float) -> None:
        """A new connection: nothing is known of it, so it begins with little."""
        self.window = self._floor
        """Most messages of the backlog under way."""
        self.base_s: float | None = None
        """Latency without a queue [s]; None: not known yet."""
        self._step = self._floor
        self._begin(now)

    @property
    def reference_s(self) -> float:
        """Latency up to which the window may grow [s]."""
        return max(LEAST_REFERENCE_S, _REFERENCE * (self.base_s or 0.0))

    def published(self, under_way: int, now: float) -> None:
        """A message of the backlog was published, as one of so many; `now` is monotonic [s]."""
        if self._began is None:
            self._began = now
        if under_way >= self.window:
            self._used = True

    def committed(self, published_at: float, now: float) -> None:
        """A message of either lane, published once, is committed; times are monotonic [s]."""
        if self._began is None or published_at < self._began:
            return
        self._count += 1
        self._total_s += now - published_at
        latency_s = self._total_s / self._count
        if self._count >= self.window:
            self._decide(latency_s, now)
        elif self._count >= _ENOUGH and latency_s > self.reference_s:
            self._shrink(latency_s)

    def _begin(self, now: float | None) -> None:
        self._began = now
        self._count = 0
        self._total_s = 0.0
        self._used = False

    def _decide(self, latency_s: float, now: float) -> None:
        if self.base_s is None or latency_s < self.base_s:
            self.base_s = latency_s
        elif self.window <= self._floor:
            self.base_s += _LEARN * (latency_s - self.base_s)
        if latency_s > self.reference_s:
            self._shrink(latency_s)
            return
        if self._used:
            self.window = min(self.window + self._step, self._limit)
            self._step *= 2
        self._begin(now)

    def _shrink(self, latency_s: float) -> None:
        factor = min(max(self.reference_s / latency_s, _MOST_SHRINK), _LEAST_SHRINK)
        self.window = max(self._floor, int(self.window * factor))
        self._step = 1 + self.window // _FIRST_STEP
        self._begin(None)
