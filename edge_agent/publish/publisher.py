"""Sends the outbox to the broker, and frees it by what the store says it has committed.

Invariants

- All state belongs to one thread; paho's network thread and the outbox's writer only put events in its queue.
- A record is published only while the session is announced, and within two windows: so many that the broker
  has not acknowledged (its Receive Maximum counts too), so many that the store has not confirmed.
- Births go first, then live records. What was in the buffer when the connection began is the backlog: it gets
  what `pace` allows, a part of the broker's window at most, and a turn now and then where live records fill all.
- With ``delivery = "committed"`` only a `committed` message frees a record. With "broker" the broker's
  acknowledgement does; a refusal (MQTT 5 reason code) never does.
- Every connection begins with the subscription, then the session record; then everything that is pending goes
  out again, each lane oldest first.
- A record that is larger than the broker takes, or over which it ends connections, is held back and stays in
  the buffer.
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
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Applied, Kind, Record
from edge_agent.config import Mqtt
from edge_agent.drivers.base import Backoff
from edge_agent.publish import link as links
from edge_agent.publish.flight import Flight
from edge_agent.publish.link import Link, LinkError, TooLargeError
from edge_agent.publish.pace import Pace
from edge_agent.publish.suspects import STRIKES, Suspects
from edge_agent.publish.versions import Versions
from edge_agent.signals import Signals
from protocols import committed, topics
from protocols.errors import PayloadError
from protocols.session import Session, State

_log = logging.getLogger(__name__)
_TICK_S = 0.25
_HANDSHAKE_S = 10.0
"""Longest time from the connection to the announced session."""
_RECHECK_S = 3.0
"""The same for a broker that has just answered."""
_GOODBYE_S = 2.0
_FIRST_RECONNECT_S = 0.2
_LONGEST_RECONNECT_S = 30.0
_BACKLOG_PART = 4
"""A quarter of each window is kept from the backlog."""
_MOST_LIVE_IN_A_ROW = 7
"""After so many it is the backlog's turn."""
_PORTIONS = 4
"""Portions that a window is asked for in."""
_RESERVE = 32
"""So many live records at least are held ready, so that the backlog does not slip in between them."""
_MOST_TOLD = 20
"""Reasons that are logged while there is no connection."""


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
        self._versions = Versions(settings.version, fallback=settings.fallback)
        self._told: set[str] = set()
        self._stepped_at = time.monotonic()
        self._session = ""
        self._connected_us = 0
        self._link: Link | None = None
        self._announced = False
        self._announced_at: float | None = None
        self._greeted = False
        self._handshake_until = 0.0
        self._receive_maximum = settings.window
        self._granted = {False: 0, True: 0}
        self._delivered: list[int] = []
        # Incarnation for whose sake the session was announced last: until the answer comes, more of its
        # messages may.
        self._asked: str | None = None
        self._ask_again_at = 0.0
        self._on_goodbye: tuple[int, threading.Event] | None = None
        # Records to publish: those that were published on this connection before; births; and both lanes, where
        # True means the backlog.
        self._again: deque[Record] = deque()
        self._births: deque[Record] = deque()
        self._ready: dict[bool, deque[Record]] = {False: deque(), True: deque()}
        self._live_in_a_row = 0
        self._suspects = Suspects()
        self._held: set[int] = set()
        self._held_ever: set[int] = set()
        self._flight = Flight(settings.resend_after_s)
        most = settings.max_uncommitted if settings.delivery == "committed" else settings.window
        self._pace = Pace(_without_part(most))
        self.failure: BaseException | None = None
        outbox.deliver_to(
            lambda generation, records: self._events.put(partial(self._on_handed_out, generation, records))
        )
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to connect and publish."""
        self._thread.start()

    @property
    def connected_s(self) -> float | None:
        """How long messages could be published without a break [s]; None: they can't now."""
        since = self._announced_at
        return None if since is None else time.monotonic() - since

    def stop(self) -> None:
        """Announce that the agent goes, and end the connection."""
        self._stopping.set()
        self._events.put(_nothing)
        self._thread.join()

    def tell_status(self, payload: bytes) -> None:
        """Publish a status message, if there is a connection; from any thread."""
        self._events.put(partial(self._publish_status, payload))

    def trouble(self, limit_s: float) -> str | None:
        """What has gone on for longer than the limit [s]: no connection is none, a thread that hangs is."""
        silent_s = time.monotonic() - self._stepped_at
        return f"the publisher has hung for {silent_s:.0f} s" if silent_s > limit_s else None

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
        self._stepped_at = time.monotonic()
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
                self._on_no_answer(self._link, now)
            return
        if self._flight.stuck(now):
            self._suspects.lost(self._flight.unanswered, now)
            self._drop("messages are not acknowledged")
            return
        self._resend(now)
        self._try_again(now)
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
                self._versions.next(time.monotonic()),
                self._client_id,
                will,
                lambda event: self._events.put(partial(self._on_event, generation, event)),
            )
        except LinkError as error:
            self._tell(str(error))
            self._backoff.failed()
            return
        self._greeted = False
        patience_s = min(_HANDSHAKE_S, _RECHECK_S) if self._versions.rechecking else _HANDSHAKE_S
        self._handshake_until = time.monotonic() + patience_s

    def _record(self, state: State, detail: str, epochs: tuple[str, ...]) -> tuple[str, bytes]:
        at_us = self._connected_us if detail == "connection lost" else time.time_ns() // 1000
        record = Session(self._tenant, self._agent, state, self._session, at_us, self._software, epochs, detail)
        return topics.session(self._tenant, self._agent), record.encode()

    def _tell(self, reason: str) -> None:
        """Log each reason once after a connection that worked; the others are more of the same."""
        if reason not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(reason)
            _log.warning("no connection to the broker, trying again: %s", reason)

    def _drop(self, reason: str) -> None:
        """Give the connection up and make another one soon."""
        self._give_up()
        self._tell(reason)
        self._backoff.failed()

    def _give_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abandon()
        self._forget()

    def _forget(self) -> None:
        self._announced = False
        self._announced_at = None
        self._signals.mqtt_version = 0
        self._granted = {False: 0, True: 0}
        for ready in (self._again, self._births, *self._ready.values()):
            ready.clear()
        self._held.clear()
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
                self._on_connected(link, receive_maximum)
            case links.Subscribed():
                self._announce()
            case links.Refused(reason, version):
                self._on_ended(reason, version and self._versions.refused(link.version, time.monotonic()))
            case links.Lost(reason, unanswered):
                now = time.monotonic()
                self._suspects.lost(self._flight.unanswered, now)
                self._on_ended(reason, unanswered and self._versions.unanswered(link.version, now))

    def _on_no_answer(self, link: Link, now: float) -> None:
        reason = "no answer to the connection"
        self._on_ended(reason, not self._greeted and self._versions.unanswered(link.version, now))

    def _on_connected(self, link: Link, receive_maximum: int) -> None:
        self._greeted = True
        if not self._versions.accepted(link.version):
            _log.info("the broker has taken MQTT 3.1.1; trying 5 once more")
            link.close()
            self._link = None
            return
        self._receive_maximum = receive_maximum
        if self._settings.delivery == "committed":
            link.subscribe(topics.committed(self._tenant, self._agent))
        else:
            self._announce()

    def _on_ended(self, reason: str, other_version: bool) -> None:
        """The connection has ended; where another version of the protocol may help, the next one comes at once."""
        if not other_version:
            self._drop(reason)
            return
        _log.info("the broker does not take MQTT 5 (%s); trying 3.1.1", reason)
        self._give_up()

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
        self._announced_at = time.monotonic()
        self._pace.restart(time.monotonic())
        self._signals.mqtt_version = self._link.version
        if not self._suspects.careful:
            self._told.clear()
            self._backoff.succeeded()
        self._connections += 1
        if self._connections > 1:
            self._signals.reconnects += 1
        spoken = "5" if self._link.version == 5 else "3.1.1"
        _log.info("connected to the broker %s:%d with MQTT %s", self._settings.host, self._settings.port, spoken)
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
        return 1 if self._suspects.careful else min(self._settings.window, self._receive_maximum)

    def _ask_for_more(self) -> None:
        """Let the outbox hand out what each lane may have under way, or waiting for its turn."""
        if not self._announced:
            return
        self._signals.backlog_window = self._pace.window
        allowed_in_all = min(self._pace.window, _without_part(self._window))
        allowed = min(self._pace.window - self._flight.backlog, allowed_in_all)
        in_reserve = max(self._window, _RESERVE)
        more = {
            False: in_reserve - len(self._ready[False]) - self._granted[False],
            True: allowed - len(self._ready[True]) - self._granted[True],
        }
        # In portions, since each costs the outbox a transaction.
        live = more[False] > 0 and (self._granted[False] == 0 or more[False] >= in_reserve // _PORTIONS)
        backlog = more[True] >= max(1, allowed_in_all // _PORTIONS)
        if live or backlog:
            for lane, count in more.items():
                more[lane] = max(0, count)
                self._granted[lane] += more[lane]
            self._outbox.grant(self._generation, live=more[False], backlog=more[True])

    def _on_handed_out(self, generation: int, records: list[Record]) -> None:
        if generation != self._generation:
            return
        for record in records:
            self._granted[record.backlog] -= 1
            lane = self._births if record.kind == Kind.BIRTH else self._ready[record.backlog]
            lane.append(record)
        self._publish_ready()

    def _publish_ready(self) -> None:
        """Publish what waits, as far as both windows go."""
        while self._link is not None and self._flight.unacknowledged < self._window:
            record = self._next()
            if record is None:
                return
            self._publish(self._link, record)

    def _next(self) -> Record | None:
        """What to publish next."""
        while self._again:
            record = self._again.popleft()
            # It may have been committed while it waited.
            if record.id in self._flight:
                return record
        while self._flight.uncommitted + len(self._held) < self._settings.max_uncommitted:
            ready = self._births or self._ready[self._lane()]
            if not ready:
                return None
            record = ready.popleft()
            # It may have been handed out twice.
            if record.id in self._flight or record.id in self._held:
                continue
            if not self._suspects.rests(record.id, time.monotonic()):
                return record
            self._hold_back(record, f"has made the broker end {STRIKES} connections")
        return None

    def _lane(self) -> bool:
        """Whether it is the backlog's turn."""
        if not self._ready[True] or self._flight.backlog_unacknowledged >= _without_part(self._window):
            return False
        return not self._ready[False] or self._live_in_a_row >= _MOST_LIVE_IN_A_ROW

    def _publish(self, link: Link, record: Record) -> None:
        try:
            mid = link.publish(self._topic(record), record.payload, retain=record.kind == Kind.BIRTH)
        except TooLargeError as error:
            self._hold_back(record, f"has {error}")
            return
        except LinkError as error:
            self._drop(str(error))
            return
        now = time.monotonic()
        self._live_in_a_row = 0 if record.backlog else self._live_in_a_row + 1
        self._flight.sent(record.id, mid, now, backlog=record.backlog)
        if record.backlog:
            self._pace.published(self._flight.backlog, now)
        self._signals.published += 1
        if record.resent:
            self._signals.redelivered += 1

    def _hold_back(self, record: Record, reason: str) -> None:
        """It would end the connection each time; another connection may be to a broker that takes more."""
        self._held.add(record.id)
        if record.id in self._held_ever:
            return
        self._held_ever.add(record.id)
        self._signals.held_back(
            f"{record.kind.name.lower()} {record.epoch}/{record.seq} with {record.readings} readings {reason}; "
            "it stays in the buffer until the broker takes it; a smaller batch.max_readings avoids it"
        )

    def _publish_status(self, payload: bytes) -> None:
        if self._link is not None and self._announced:
            self._link.tell(topics.status(self._tenant, self._agent), payload)

    def _topic(self, record: Record) -> str:
        match record.kind:
            case Kind.DATA:
                return topics.data(self._tenant, self._agent, record.detail)
            case Kind.BIRTH:
                return topics.birth(self._tenant, self._agent, record.detail)
            case Kind.GAP:
                return topics.gap(self._tenant, self._agent)

    def _resend(self, now: float) -> None:
        ids = self._flight.due(now, self._window - self._flight.unacknowledged - len(self._again))
        if ids:
            self._then(self._outbox.load(ids), partial(self._on_loaded, self._generation, ids))

    def _try_again(self, now: float) -> None:
        """Send what has rested for long enough, though this connection has gone on without it."""
        rested = self._held.intersection(self._suspects.rested(now))
        if rested:
            self._held -= rested
            self._then(self._outbox.load(sorted(rested)), partial(self._on_rested, self._generation))

    def _on_rested(self, generation: int, records: list[Record]) -> None:
        if generation != self._generation:
            return
        for record in records:
            (self._births if record.kind == Kind.BIRTH else self._ready[record.backlog]).append(record)
        self._publish_ready()

    def _on_loaded(self, generation: int, ids: list[int], records: list[Record]) -> None:
        if generation != self._generation:
            return
        # What is not pending any more need not be sent.
        self._flight.finished(set(ids) - {record.id for record in records})
        self._again.extend(records)
        self._publish_ready()

    # Answers

    def _on_acknowledged(self, mid: int, refusal: str | None) -> None:
        if self._on_goodbye is not None and mid == self._on_goodbye[0]:
            self._on_goodbye[1].set()
        now = time.monotonic()
        id_ = self._flight.acknowledged(mid, now)
        if id_ is not None:
            self._suspects.cleared((id_,))
            self._backoff.succeeded()
        if refusal is not None:
            self._signals.refused_by_broker(refusal)
        elif id_ is not None and self._settings.delivery == "broker":
            self._finish((id_,), now)
            self._delivered.append(id_)
        self._publish_ready()

    def _on_committed(self, payload: bytes) -> None:
        try:
            message = committed.decode(payload)
        except PayloadError as error:
            self._signals.discarded_message(str(error))
            return
        self._signals.committed_heard += 1
        now = time.monotonic()
        if message.answers == self._session:
            self._flight.answered(now)
        else:
            self._flight.heard()
        self._then(self._outbox.apply(message, self._session), partial(self._on_applied, self._generation, now))

    def _on_applied(self, generation: int, heard_at: float, applied: Applied) -> None:
        if applied.revived:
            _log.warning("the store was restored: %d records are sent again", applied.revived)
        # They do not come again, whichever connection brought the word.
        self._suspects.cleared(applied.freed)
        if generation != self._generation:
            return
        self._finish(applied.freed, heard_at)
        self._publish_ready()
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

    def _finish(self, ids: Sequence[int], now: float) -> None:
        """Records that are delivered; how long that took sets the pace of the backlog."""
        self._suspects.cleared(ids)
        for message in self._flight.finished(ids):
            self._signals.commit_latency.add(now - message.published_at)
            if message.once:
                self._pace.committed(message.published_at, now)

    def _then(self, future: Future[Any], handle: Callable[[Any], None]) -> None:
        """Handle a result of the outbox on this thread; its failure ends the agent by another way."""

        def done(finished: Future[Any]) -> None:
            if finished.exception() is None:
                self._events.put(partial(handle, finished.result()))

        future.add_done_callback(done)


def _without_part(window: int) -> int:
    """What the backlog may have of a window."""
    return max(1, window - window // _BACKLOG_PART)


def _nothing() -> None:
    """An event that only wakes the thread."""
