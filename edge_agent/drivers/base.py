"""What every driver does: serve one connection, one request at a time."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_agent.points import Timing


@dataclass(frozen=True, slots=True)
class Turn:
    """Something that is polled at its own times.

    Attributes
    ----------
    name
        For the log.
    timing
        When.
    """

    name: str
    timing: Timing


class Driver(Protocol):
    """One connection with all that is polled over it; called from one task only."""

    name: str

    @property
    def turns(self) -> Sequence[Turn]:
        """What is polled."""
        ...

    async def poll(self, turn: int) -> None:
        """Poll one of `turns` and report what was found; never raises because of a device."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class Backoff:
    """When to try again: delays that double up to a limit, jittered, in real time.

    Parameters
    ----------
    first_s, limit_s
        Shortest and longest delay [s].
    """

    def __init__(self, first_s: float, limit_s: float) -> None:
        self._first_s = min(first_s, limit_s)
        self._limit_s = limit_s
        self._delay_s = self._first_s
        self._at = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for an attempt."""
        return time.monotonic() >= self._at

    @property
    def wait_s(self) -> float:
        """Time until the next attempt [s]."""
        return max(0.0, self._at - time.monotonic())

    def failed(self) -> None:
        """An attempt failed: the next one is later."""
        self._at = time.monotonic() + jittered(self._delay_s)
        self._delay_s = min(2 * self._delay_s, self._limit_s)

    def succeeded(self) -> None:
        """It works: the next failure begins with the shortest delay."""
        self._delay_s = self._first_s
        self._at = 0.0


def jittered(delay_s: float) -> float:
    """Between half of a delay and the whole of it, so that many who wait do not wake together [s]."""
    return delay_s * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
