"""Messages between the broker and the writers, and the order of their acknowledgements.

Invariants

- A message is acknowledged only after its transaction committed, in the order in which messages came: what
  is acknowledged is always a prefix of what was received on this connection.
- A message of an earlier connection is never acknowledged: its number means another message now. The broker
  sends it again.
- The number of messages held is bounded: by the broker's own window, and by `limit` where it has none.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Delivery:
    """A message as it came.

    Attributes
    ----------
    topic, payload
        The message.
    mid, qos
        The broker's number of it on this connection, and its quality of service.
    generation
        Which connection.
    done
        Whether its transaction committed.
    """

    topic: str
    payload: bytes = field(repr=False)
    mid: int
    qos: int
    generation: int
    done: bool = False


class Inbox:
    """Bounded queue with acknowledgement in order.

    Parameters
    ----------
    limit
        Most messages waiting; further ones are let go without acknowledgement.
    window
        Most messages that the broker sends without acknowledgement; None if it does not say.
    """

    def __init__(self, limit: int, window: int | None = None) -> None:
        self._limit = limit
        self._window = window
        self._changed = threading.Condition()
        self._waiting: deque[Delivery] = deque()
        self._unacknowledged: deque[Delivery] = deque()
        self._generation = 0
        self._closed = False
        self._overflowed = False
        self.acknowledge: Callable[[Delivery], None] = lambda delivery: None
        """Called under the lock with each message to acknowledge."""
        self.recover: Callable[[], None] = lambda: None
        """Called once when messages were let go and there is room again: make the broker send them."""

    def put(self, topic: str, payload: bytes, mid: int, qos: int) -> bool:
        """Take a message in; False if it was let go, since there is no room or the inbox is closed."""
        with self._changed:
            if self._closed:
                return False
            if len(self._waiting) >= self._limit:
                self._overflowed = True
                return False
            delivery = Delivery(topic, payload, mid, qos, self._generation)
            self._waiting.append(delivery)
            if qos:
                self._unacknowledged.append(delivery)
            self._changed.notify()
            return True

    def take(self, timeout_s: float) -> Delivery | None:
        """Next message; None if none comes in time, or the inbox is closed and empty."""
        with self._changed:
            if not self._waiting and not self._closed:
                self._changed.wait(timeout_s)
            if not self._waiting:
                return None
            delivery = self._waiting.popleft()
            recover = self._overflowed and not self._waiting
            if recover:
                self._overflowed = False
        if recover:
            self.recover()
        return delivery

    def done(self, deliveries: Iterable[Delivery]) -> int:
        """Note that messages are committed, and acknowledge what can be.

        Returns
        -------
        int
            How many of them belong to an earlier connection and are not acknowledged.
        """
        stale = 0
        with self._changed:
            for delivery in deliveries:
                delivery.done = True
                stale += delivery.qos > 0 and delivery.generation != self._generation
            while self._unacknowledged and self._unacknowledged[0].done:
                self.acknowledge(self._unacknowledged.popleft())
        return stale

    def reset(self) -> int:
        """Forget the messages of a connection that is gone; the broker sends them again.

        Returns
        -------
        int
            How many were waiting.
        """
        with self._changed:
            self._generation += 1
            waiting = len(self._waiting)
            self._waiting.clear()
            self._unacknowledged.clear()
            return waiting

    def close(self) -> None:
        """Take nothing in from now on; what waits can still be taken out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        with self._changed:
            return self._closed

    @property
    def exhausted(self) -> bool:
        """Whether nothing more can come until something is acknowledged."""
        with self._changed:
            full = self._window is not None and len(self._unacknowledged) >= self._window
            return not self._waiting and (full or self._closed)

    @property
    def waiting(self) -> int:
        """Messages not yet taken out."""
        with self._changed:
            return len(self._waiting)

    @property
    def unacknowledged(self) -> int:
        """Messages of this connection not yet acknowledged."""
        with self._changed:
            return len(self._unacknowledged)
