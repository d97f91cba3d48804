"""Sends the outbox to the broker, and frees it by what the store says it has committed.

Invariants

- All state belongs to one thread; paho's network thread and the outbox's writer only put events in its queue.
- A record is published only while the session is announced, and within two windows: so many that the broker
  has not acknowledged (its Receive Maximum counts too), so many that the store has not confirmed.
- With ``delivery = "committed"`` only a `committed` message frees a record. With "broker" the broker's
  acknowledgement does; a refusal (MQTT 5 reason code) never does.
- Every connection begins with the subscription, then the session record; then everything that is pending goes
  out again, oldest first.
- A last will carries the session of its connection. So when the store was restored, the session is announced
  by a new connection.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Applied, Kind, Record
from edge_agent.config import Mqtt
from edge_agent.drivers.base import Backoff
from edge_agent.publish import link as links
from edge_agent.publish.flight import Flight
from edge_agent.publish.link import Link, LinkError
from edge_agent.signals import Signals
from protocols import committed, topics
from protocols.errors import PayloadError
from protocols.session import Session, State

_log = logging.getLogger(__name__)
_TICK_S = 0.25
_HANDSHAKE_S = 10.0
"""Longest time from the connection to the announced session."""
_GOODBYE_S = 2.0
_FIRST_RECONNECT_S = 0.2
_LONGEST_RECONNECT_S = 30.0


class Publisher:
    """Publishes an outbox until it is stopped.

    Parameters
    ----------
    settings
        The broker.
    tenant, agent
        Names in topics.
    outbox
        What to send.
    signals
        Counters.
    software
        Name and version, for the session record.
    """

    def __init__(
        self, settings: Mqtt, tenant: str, agent: str, outbox: Outbox, signals: Signals, software: str
    ) -> None:
        self._settings = settings
        self._tenant = tenant
        self._agent = agent
        self._outbox = outbox
        self._signals = signals
        self._software = software
        self._client_id = settings.client_id or f"metercarbon-{tenant}-{agent}-{uuid.uuid4().hex[:8]}"
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._backoff = Backoff(_FIRST_RECONNECT_S, _LONGEST_RECONNECT_S)
        self._generation = 0
        self._connections = 0
        self._told = False
        self._session = ""
        self._connected_us = 0
        self._link: Link | None = None
        self._announced = False
        self._handshake_until = 0.0
        self._receive_maximum = settings.window
        self._granted = 0
        self._delivered: list[int] = []
        # Incarnation for whose sake the session was announced last: until the answer comes, more of its
        # messages may.
        self._asked: str | None = None
        self._ask_again_at = 0.0
        self._on_goodbye: tuple[int, threading.Event] | None = None
        # Records to publish, and whether they were published on this connection before.
        self._ready: deque[tuple[Record, bool]] = deque()
        self._flight = Flight(settings.resend_after_s)
        self.failure: BaseException | None = None
        outbox.deliver_to(
            lambda generation, records: self._events.put(partial(self._on_handed_out, generation, records))
        )
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to connect and publish."""
        self._thread.start()

    def stop(self) -> None:
        """Announce that the agent goes, and end the connection."""
        self._stopping.set()
        self._events.put(_nothing)
        self._thread.join()

    # The thread

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._step()
            self._leave()
        except BaseException as error:  # noqa: BLE001 (whatever it is, the agent must stop)
            _log.exception("the publisher has failed")
            self.failure = error

    def _step(self) -> None:
        if self._link is None and self._backoff.due:
            self._connect()
        wait_s = _TICK_S if self._link is not None else min(_TICK_S, self._backoff.wait_s)
        try:
            event = self._events.get(timeout=max(0.001, wait_s))
            while True:
                event()
                event = self._events.get_nowait()
        except queue.Empty:
            pass
        self._tick()

    def _tick(self) -> None:
        if self._delivered:
            self._outbox.settle(self._delivered)
            self._delivered = []
        if self._link is None:
            return
        now = time.monotonic()
        if not self._announced:
            if now > self._handshake_until:
                self._drop("no answer to the connection")
            return
        if self._flight.stuck(now):
            self._drop("messages are not acknowledged")
            return
        self._resend(now)
        self._ask_for_more()

    # Connection

    def _connect(self) -> None:
        self._generation += 1
        self._session = uuid.uuid4().hex
        self._connected_us = time.time_ns() // 1000
        will = self._record("offline", "connection lost", ())
        generation = self._generation
        try:
            self._link = Link(
                self._settings,
                self._client_id,
                will,
                lambda event: self._events.put(partial(self._on_event, generation, event)),
            )
        except LinkError as error:
            self._tell(str(error))
            self._backoff.failed()
            return
        self._handshake_until = time.monotonic() + _HANDSHAKE_S

    def _record(self, state: State, detail: str, epochs: tuple[str, ...]) -> tuple[str, bytes]:
        at_us = self._connected_us if detail == "connection lost" else time.time_ns() // 1000
        record = Session(self._tenant, self._agent, state, self._session, at_us, self._software, epochs, detail)
        return topics.session(self._tenant, self._agent), record.encode()

    def _tell(self, reason: str) -> None:
        """Log the first failure after a connection that worked; the others are more of the same."""
        if not self._told:
            self._told = True
            _log.warning("no connection to the broker, trying again: %s", reason)

    def _drop(self, reason: str) -> None:
        """Give the connection up and make another one soon."""
        link, self._link = self._link, None
        if link is not None:
            link.abandon()
        self._tell(reason)
        self._forget()
        self._backoff.failed()

    def _forget(self) -> None:
        self._announced = False
        self._granted = 0
        self._ready.clear()
        self._flight = Flight(self._settings.resend_after_s)

    def _on_event(self, generation: int, event: links.Event) -> None:
        if generation != self._generation or self._link is None:
            return
        try:
            self._handle(self._link, event)
        except LinkError as error:
            self._drop(str(error))

    def _handle(self, link: Link, event: links.Event) -> None:
        match event:
            case links.Acknowledged(mid, refusal):
                self._on_acknowledged(mid, refusal)
            case links.Message(payload):
                self._on_committed(payload)
            case links.Connected(receive_maximum):
                self._receive_maximum = receive_maximum
                if self._settings.delivery == "committed":
                    link.subscribe(topics.committed(self._tenant, self._agent))
                else:
                    self._announce()
            case links.Subscribed():
                self._announce()
            case links.Refused(reason) | links.Lost(reason):
                self._drop(reason)

    def _announce(self) -> None:
        """Start over with the outbox, and say which epochs it holds."""
        generation = self._generation
        self._then(self._outbox.restart(generation), partial(self._on_restarted, generation))

    def _on_restarted(self, generation: int, epochs: tuple[str, ...]) -> None:
        if generation != self._generation or self._link is None:
            return
        topic, payload = self._record("online", "", epochs)
        try:
            self._link.publish(topic, payload, retain=True)
        except LinkError as error:
            self._drop(str(error))
            return
        self._announced = True
        self._told = False
        self._backoff.succeeded()
        self._connections += 1
        if self._connections > 1:
            self._signals.reconnects += 1
        _log.info("connected to the broker %s:%d", self._settings.host, self._settings.port)
        self._ask_for_more()

    def _leave(self) -> None:
        """Say that the agent stops, and wait a moment until the broker has it."""
        link = self._link
        if link is None:
            return
        if not self._announced:
            link.abandon()
            return
        topic, payload = self._record("offline", "stopped", ())
        try:
            mid = link.publish(topic, payload, retain=True)
        except LinkError as error:
            _log.warning("could not tell the broker that the agent stops: %s", error)
            link.abandon()
            return
        acknowledged = threading.Event()
        self._on_goodbye = (mid, acknowledged)
        deadline = time.monotonic() + _GOODBYE_S
        while not acknowledged.is_set() and self._link is not None and time.monotonic() < deadline:
            try:
                self._events.get(timeout=0.05)()
            except queue.Empty:
                continue
        if self._link is not None:
            self._link.close()

    # Sending

    @property
    def _window(self) -> int:
        """Most messages that the broker may have unacknowledged."""
        return min(self._settings.window, self._receive_maximum)

    def _ask_for_more(self) -> None:
        """Let the outbox hand out what fits in both windows."""
        if not self._announced:
            return
        ready = len(self._ready)
        room = min(
            self._window - self._flight.unacknowledged - ready,
            self._settings.max_uncommitted - self._flight.uncommitted - ready,
        )
        more = room - self._granted
        # In portions, since each costs the outbox a transaction.
        if more > 0 and (self._granted == 0 or more >= self._window // 4):
            self._granted += more
            self._outbox.grant(self._generation, more)

    def _on_handed_out(self, generation: int, records: list[Record]) -> None:
        if generation != self._generation:
            return
        self._granted -= len(records)
        self._ready.extend((record, False) for record in records)
        self._publish_ready()

    def _publish_ready(self) -> None:
        """Publish what waits, as far as the broker takes it; what is to be sent again may come on top of a grant."""
        while self._ready and self._link is not None and self._flight.unacknowledged < self._window:
            record, again = self._ready.popleft()
            # Handed out twice, or committed while it waited to be sent again.
            if (record.id in self._flight) == again:
                self._publish(self._link, record)

    def _publish(self, link: Link, record: Record) -> None:
        try:
            mid = link.publish(self._topic(record), record.payload, retain=record.kind == Kind.BIRTH)
        except LinkError as error:
            self._drop(str(error))
            return
        self._flight.sent(record.id, mid, time.monotonic())
        self._signals.published += 1
        if record.resent:
            self._signals.redelivered += 1

    def _topic(self, record: Record) -> str:
        match record.kind:
            case Kind.DATA:
                return topics.data(self._tenant, self._agent, record.detail)
            case Kind.BIRTH:
                return topics.birth(self._tenant, self._agent, record.detail)
            case Kind.GAP:
                return topics.gap(self._tenant, self._agent)

    def _resend(self, now: float) -> None:
        ids = self._flight.due(now, self._window - self._flight.unacknowledged - len(self._ready))
        if ids:
            self._then(self._outbox.load(ids), partial(self._on_loaded, self._generation, ids))

    def _on_loaded(self, generation: int, ids: list[int], records: list[Record]) -> None:
        if generation != self._generation:
            return
        # What is not pending any more need not be sent.
        self._flight.finished(set(ids) - {record.id for record in records})
        self._ready.extend((record, True) for record in records)
        self._publish_ready()

    # Answers

    def _on_acknowledged(self, mid: int, refusal: str | None) -> None:
        if self._on_goodbye is not None and mid == self._on_goodbye[0]:
            self._on_goodbye[1].set()
        id_ = self._flight.acknowledged(mid, time.monotonic())
        self._publish_ready()
        if refusal is not None:
            self._signals.refused_by_broker(refusal)
        elif id_ is not None and self._settings.delivery == "broker":
            self._flight.finished((id_,))
            self._delivered.append(id_)

    def _on_committed(self, payload: bytes) -> None:
        try:
            message = committed.decode(payload)
        except PayloadError as error:
            self._signals.discarded_message(str(error))
            return
        self._signals.committed_heard += 1
        if message.answers == self._session:
            self._flight.answered(time.monotonic())
        else:
            self._flight.heard()
        self._then(self._outbox.apply(message, self._session), partial(self._on_applied, self._generation))

    def _on_applied(self, generation: int, applied: Applied) -> None:
        if applied.revived:
            _log.warning("the store was restored: %d records are sent again", applied.revived)
        if generation != self._generation:
            return
        self._flight.finished(applied.freed)
        now = time.monotonic()
        if applied.announce is None or self._link is None:
            return
        if applied.announce == self._asked and now < self._ask_again_at:
            return
        _log.info("the store was restored: announcing the session again")
        self._asked = applied.announce
        self._ask_again_at = now + self._settings.resend_after_s
        self._link.close()
        self._link = None
        self._forget()

    def _then(self, future: Future[Any], handle: Callable[[Any], None]) -> None:
        """Handle a result of the outbox on this thread; its failure ends the agent by another way."""

        def done(finished: Future[Any]) -> None:
            if finished.exception() is None:
                self._events.put(partial(handle, finished.result()))

        future.add_done_callback(done)


def _nothing() -> None:
    """An event that only wakes the thread."""
