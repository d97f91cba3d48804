"""Watches the clock, and has the buffer hold back and let go what waits for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future

from edge_agent.buffer.outbox import Outbox
from edge_agent.clock import Clock

_log = logging.getLogger(__name__)


class Waiting:
    """What the clock means for the buffer.

    Parameters
    ----------
    clock
        The clock.
    outbox
        Holds from the beginning if the clock does.
    """

    def __init__(self, clock: Clock, outbox: Outbox) -> None:
        self._clock = clock
        self._outbox = outbox
        # An earlier process may have left something behind.
        self._releasing = not clock.holding
        self._release: Future[bool] | None = None
        if clock.holding:
            _log.warning("the clock is not synchronised: readings wait, to be re-timed (buffer.hold_unsynchronised_s)")

    def look(self, connected_s: float | None, close_books: Callable[[], None]) -> None:
        """Look at the clock, and act on what has changed; see `Clock.look`. Does not wait for the disk."""
        held = self._clock.holding
        self._clock.look(connected_s, close_books)
        if self._clock.holding != held:
            self._releasing = held
            # What an earlier one says is not of what waits now.
            self._release = None
            if not held:
                _log.warning("the clock is not synchronised any more: readings wait")
                self._outbox.hold()
            elif self._clock.offset_us is None:
                _log.warning("the clock is still not synchronised: readings are sent with its time")
            else:
                _log.info("the clock is synchronised: readings that waited are re-timed and sent")
        if self._releasing and (self._release is None or self._release.done()):
            if self._release is not None:
                # What ails the buffer is told by itself.
                self._releasing = self._release.exception() is None and self._release.result()
                self._release = None
            if self._releasing:
                self._release = self._outbox.release(self._clock.offset_us)
