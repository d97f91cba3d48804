"""Messages on their way: which the broker has, which are not committed, and when to send them again.

Invariants

- An acknowledgement by the broker only puts off the resend timer; a message leaves here when the store has
  it, or the connection is gone.
- As long as the store is not heard, only the oldest message is sent again, as a question; once it is heard,
  all that are due go. So a store that is down does not fill the broker with copies.
- When the store answers the session it has just subscribed, so what the broker acknowledged before that may
  have reached nobody: it is sent again soon.
- Delays double for a message that keeps coming back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_LONGEST = 8
"""Longest delay before a message is sent again, as a multiple of the first."""
_SOON = 1 / 6
"""Delay after the store has answered the session, as a share of the usual one."""


@dataclass(slots=True)
class _Message:
    backlog: bool
    published_at: float
    attempts: int = 0
    due: float | None = None
    """When to send it again [s]; None: while the broker has not answered, or it is about to be sent again."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A message that need not be sent again.

    Attributes
    ----------
    published_at
        When it was first published on this connection, monotonic [s].
    once
        Whether that was the only time, so that there is no doubt which one was answered.
    """

    published_at: float
    once: bool


class Flight:
    """Messages given to the broker on one connection.

    Parameters
    ----------
    resend_after_s
        Time after which a message is sent again [s].
    """

    def __init__(self, resend_after_s: float) -> None:
        self._resend_after_s = resend_after_s
        self._messages: dict[int, _Message] = {}
        self._mids: dict[int, tuple[int, float, bool]] = {}
        self._next_round = 0.0
        self._heard = False
        self._backlog = 0
        self._backlog_unacknowledged = 0

    def __contains__(self, id_: int) -> bool:
        return id_ in self._messages

    @property
    def uncommitted(self) -> int:
        """How many the store has not confirmed."""
        return len(self._messages)

    @property
    def unacknowledged(self) -> int:
        """How many the broker has not acknowledged."""
        return len(self._mids)

    @property
    def unanswered(self) -> list[int]:
        """Records that the broker has not acknowledged."""
        return [id_ for id_, _, _ in self._mids.values()]

    @property
    def backlog(self) -> int:
        """How many of the backlog the store has not confirmed."""
        return self._backlog

    @property
    def backlog_unacknowledged(self) -> int:
        """How many of the backlog the broker has not acknowledged."""
        return self._backlog_unacknowledged

    def sent(self, id_: int, mid: int, now: float, *, backlog: bool = False) -> None:
        """A record was given to the broker under a message id."""
        message = self._messages.get(id_)
        if message is None:
            message = self._messages[id_] = _Message(backlog, now)
            self._backlog += backlog
        message.attempts += 1
        message.due = None
        self._mids[mid] = id_, now, message.backlog
        self._backlog_unacknowledged += message.backlog

    def acknowledged(self, mid: int, now: float) -> int | None:
        """The broker has answered a message; returns the record it was, if it is one."""
        if mid not in self._mids:
            return None
        id_, _, backlog = self._mids.pop(mid)
        self._backlog_unacknowledged -= backlog
        message = self._messages.get(id_)
        if message is not None:
            message.due = now + self._resend_after_s * min(2 ** (message.attempts - 1), _LONGEST)
        return id_

    def finished(self, ids: Iterable[int]) -> list[Finished]:
        """Records that need not be sent again; returns those of them that were under way."""
        found = [message for id_ in ids if (message := self._messages.pop(id_, None)) is not None]
        self._backlog -= sum(message.backlog for message in found)
        return [Finished(message.published_at, message.attempts == 1) for message in found]

    def heard(self) -> None:
        """The store has said something, so it is there."""
        self._heard = True

    def answered(self, now: float) -> None:
        """The store has answered the session."""
        self.heard()
        soon = now + self._resend_after_s * _SOON
        for message in self._messages.values():
            if message.due is not None:
                message.due = min(message.due, soon)

    def stuck(self, now: float) -> bool:
        """Whether the broker has left a message without an answer for too long."""
        oldest = next(iter(self._mids.values()), None)
        return oldest is not None and now - oldest[1] > self._resend_after_s

    def due(self, now: float, most: int) -> list[int]:
        """Records to send again now, oldest first."""
        if now < self._next_round:
            return []
        self._next_round = now + min(1.0, self._resend_after_s / 4)
        late = [id_ for id_, message in self._messages.items() if message.due is not None and message.due <= now]
        if not late:
            return []
        chosen = sorted(late)[: most if self._heard else min(1, most)]
        if not self._heard and chosen:
            # The next question comes after another delay, whoever it is then.
            self._next_round = now + self._resend_after_s
        self._heard = False
        for id_ in chosen:
            self._messages[id_].due = None
        return chosen
