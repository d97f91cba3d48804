"""Which version of MQTT to connect with: 5, or 3.1.1 where the broker does not take 5.

Invariants

- Only what a broker does on a connection counts: one that can't be reached is down, not old.
- A refusal of the version is believed at once. A connection that is closed or left without an answer may be an
  old broker's, or that of a broker that is about to go: 3.1.1 is tried, and if that is taken, 5 once more, now
  that the broker is known to be there.
- 3.1.1 is kept for a while; the first connection after that tries 5 again. A connection that works is not
  ended for it: a broker that learns MQTT 5 does so by a restart.
"""

from __future__ import annotations

from enum import Enum, auto

TRY_AGAIN_S = 600.0
"""How long 3.1.1 is kept without another attempt at 5 [s]."""


class _Doubt(Enum):
    NONE = auto()
    NO_ANSWER = auto()
    """A connection with 5 had no answer: 3.1.1 is next."""
    OLD_TAKEN = auto()
    """And 3.1.1 was taken: 5 is next, for the last time."""


class Versions:
    """What is known of the broker.

    Parameters
    ----------
    wanted
        5, or 3 for 3.1.1.
    fallback
        Whether 3.1.1 may be used where 5 is wanted.
    """

    def __init__(self, wanted: int, *, fallback: bool) -> None:
        self._wanted = wanted
        self._may_fall_back = wanted == 5 and fallback
        self._doubt = _Doubt.NONE
        self._old_until: float | None = None

    def next(self, now: float) -> int:
        """Version of the next connection."""
        if not self._may_fall_back:
            return self._wanted
        old = self._old_until is not None and now < self._old_until
        return 3 if old or self._doubt is _Doubt.NO_ANSWER else 5

    @property
    def rechecking(self) -> bool:
        """Whether the broker has just answered, though not to version 5."""
        return self._doubt is _Doubt.OLD_TAKEN

    def refused(self, version: int, now: float) -> bool:
        """The broker has refused a version; returns whether to try the other one at once."""
        if not self._may_fall_back:
            return False
        self._doubt = _Doubt.NONE
        self._old_until = now + TRY_AGAIN_S if version == 5 else None
        return version == 5

    def unanswered(self, version: int, now: float) -> bool:
        """The broker has not answered a connection; returns whether to try another one at once."""
        if not self._may_fall_back:
            return False
        if version == 3:
            self._doubt = _Doubt.NONE
            return False
        if self._doubt is _Doubt.OLD_TAKEN or self._old_until is not None:
            return self.refused(version, now)
        self._doubt = _Doubt.NO_ANSWER
        return True

    def accepted(self, version: int) -> bool:
        """The broker has taken a version; returns whether to stay with it."""
        if version == 5:
            self._doubt = _Doubt.NONE
            self._old_until = None
        elif self._doubt is _Doubt.NO_ANSWER:
            self._doubt = _Doubt.OLD_TAKEN
            return False
        return True
