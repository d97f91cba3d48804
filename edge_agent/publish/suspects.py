"""Which message makes the broker end the connection: too large for it, or not allowed, without its saying so.

MQTT 3.1.1 has no other way to refuse a message, and without this one such message would block all behind it.

Rules

- Messages that were not acknowledged at the end of two connections in a row are suspects. As long as there are
  any, messages go one by one.
- One that is alone when the connection ends has a strike, and is cleared when it is acknowledged.
- With so many strikes in a row it rests: the others go on without it. Since it may be the network's fault, it is
  tried again after a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

STRIKES = 3
REST_S = 3600.0
"""How long a message rests [s]."""


class Suspects:
    """Messages by their id in the buffer."""

    def __init__(self) -> None:
        self._noted: set[int] = set()
        self._strikes: dict[int, int] = {}
        self._resting: dict[int, float] = {}

    @property
    def careful(self) -> bool:
        """Whether messages must go one by one."""
        return bool(self._strikes)

    def lost(self, unacknowledged: Sequence[int], now: float) -> None:
        """A connection has ended while these messages were not acknowledged."""
        if len(unacknowledged) != 1:
            for id_ in self._noted.intersection(unacknowledged):
                self._strikes.setdefault(id_, 0)
            self._noted = set(unacknowledged)
            return
        (id_,) = unacknowledged
        self._strikes[id_] = self._strikes.get(id_, 0) + 1
        if self._strikes[id_] == STRIKES:
            del self._strikes[id_]
            self._resting[id_] = now + REST_S

    def cleared(self, ids: Iterable[int]) -> None:
        """Messages that the broker has acknowledged, or that need not be sent any more."""
        for id_ in ids:
            self._noted.discard(id_)
            self._strikes.pop(id_, None)
            self._resting.pop(id_, None)

    def rested(self, now: float) -> list[int]:
        """Messages whose rest is over; each is said once."""
        over = [id_ for id_, until in self._resting.items() if now >= until]
        for id_ in over:
            del self._resting[id_]
        return over

    def rests(self, id_: int, now: float) -> bool:
        """Whether a message must not be sent now."""
        until = self._resting.get(id_)
        if until is not None and now >= until:
            del self._resting[id_]
            return False
        return until is not None
