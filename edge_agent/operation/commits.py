"""How long batches take to the disk, seen from outside the outbox."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from edge_agent.buffer.records import Draft


class Commits:
    """Passes batches on to the buffer and times them until they are on disk.

    Parameters
    ----------
    append
        Puts a batch in the buffer; its future is done when it is on disk.
    """

    def __init__(self, append: Callable[[Draft], Future[None]]) -> None:
        self._append = append
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._waiting: dict[int, float] = {}
        self.count = 0
        self.total_s = 0.0
        self.last_s = 0.0

    def __call__(self, draft: Draft) -> Future[None]:
        """Put a batch in the buffer."""
        id_ = next(self._ids)
        with self._lock:
            self._waiting[id_] = time.monotonic()
        future = self._append(draft)
        future.add_done_callback(lambda _: self._done(id_))
        return future

    def oldest_s(self) -> float:
        """How long the batch that waits longest has waited [s]; 0 if none waits."""
        with self._lock:
            first = next(iter(self._waiting.values()), None)
        return 0.0 if first is None else time.monotonic() - first

    def _done(self, id_: int) -> None:
        """Runs in the writer's thread; a batch that was refused is done too, the run ends then."""
        with self._lock:
            took_s = time.monotonic() - self._waiting.pop(id_)
            self.count += 1
            self.total_s += took_s
            self.last_s = took_s
