"""Processes that stand still for a while."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.local.processes import Child


@contextmanager
def held(child: Child) -> Iterator[None]:
    """A process that stands still, but keeps its connections; it may be killed meanwhile."""
    pid = child.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if child.running() and child.pid == pid:
            os.kill(pid, signal.SIGCONT)
