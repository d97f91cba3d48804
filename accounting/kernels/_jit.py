"""The one way kernels are compiled: cached, without the GIL, IEEE arithmetic as written (no fastmath).

With ``NUMBA_DISABLE_JIT=1`` in the environment numba hands the plain functions back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function on first use and keep the machine code on disk."""
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True, fastmath=False)(function))
