"""Memory that is given back to the system, so that what the start takes for a moment does not stay for years.

The birth of an agent with 100,000 points is 34 MB. By default glibc takes the first such block that is freed as a
sign of more to come, and keeps the next ones. Where the C library is another one, nothing is done.
"""

from __future__ import annotations

import ctypes
import gc

_MMAP_THRESHOLD = -3
_ARENA_MAX = -8
_LARGE_BYTES = 1_000_000


def return_large_blocks() -> None:
    """From now on, give large blocks back as soon as they are free; to be called before there are other threads."""
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_MMAP_THRESHOLD, _LARGE_BYTES)
        # Of one heap a thread, as by default, each would keep free blocks of its own; Python's threads take turns.
        tune(_ARENA_MAX, 1)


def return_all() -> None:
    """Give back what is free now."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
