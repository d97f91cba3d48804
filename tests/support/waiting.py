"""Waiting for a condition, with a generous deadline and a message that says what never came."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60, every_s: float = 0.1) -> None:
    """Poll a condition until it holds.

    Raises
    ------
    TimeoutError
        Naming `what` did not happen.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout_s:g} s still not: {what}")
        time.sleep(every_s)
