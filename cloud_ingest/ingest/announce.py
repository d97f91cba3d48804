"""Tells agents what is committed.

Invariants

- What is announced is read from the database in the transaction that folded it, together with the incarnation:
  never from memory.
- An epoch touched by a flush, by a duplicate or by a replay is announced until a message about it went to
  the broker.
- An online session record is answered with every epoch it lists, those unknown here as empty.
- At a new incarnation every known agent hears of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cloud_ingest.errors import StoreError
from cloud_ingest.ingest.write import Effects
from cloud_ingest.ingest.writer import TRANSIENT_ERRORS, Backoff
from cloud_ingest.signals import Signals
from cloud_ingest.store import agents, incarnation, ledger
from cloud_ingest.store.incarnation import Incarnation
from cloud_ingest.store.ledger import EpochKey
from cloud_ingest.store.pool import Connection
from protocols import topics
from protocols.committed import Committed, EpochState

_log = logging.getLogger(__name__)

INCARNATION_CHECK_S = 2.0
"""Distance of looks at the incarnation when nothing else is to be announced [s]."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A full answer that is due: the session, and the epochs its record listed."""

    session: str
    epochs: tuple[str, ...]


@dataclass(slots=True)
class _Due:
    """What is to be announced."""

    touched: set[EpochKey] = field(default_factory=set)
    answers: dict[int, _Answer] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.touched or self.answers)


class Announcer:
    """Publishes committed messages from a thread of its own.

    Parameters
    ----------
    connect
        Makes a connection in autocommit mode.
    publish
        Sends a payload to a topic; whether it went out.
    every_s
        Least distance of announcements [s].
    signals
        Counters.
    """

    def __init__(
        self, connect: Callable[[], Connection], publish: Callable[[str, bytes], bool], every_s: float, signals: Signals
    ) -> None:
        self._connect = connect
        self._publish = publish
        self._every_s = every_s
        self._signals = signals
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._wake.set()
        self._stop = threading.Event()
        self._due = _Due()
        self._names: dict[int, tuple[str, str]] = {}
        self._connection: Connection | None = None
        self._incarnation: Incarnation | None = None

    def heard(self, effects: Effects) -> None:
        """Take note of a committed flush."""
        with self._lock:
            self._due.touched |= effects.touched
            for agent_id, record in effects.sessions.items():
                self._due.answers[agent_id] = _Answer(record.session, record.epochs)
            for agent_id, agent in effects.agents.items():
                self._names[agent_id] = (agent.tenant, agent.name)
        if effects.touched or effects.sessions:
            self._wake.set()

    def touch(self, epochs: Iterable[EpochKey]) -> None:
        """Announce some epochs."""
        with self._lock:
            self._due.touched |= set(epochs)
        self._wake.set()

    def stop(self) -> None:
        """Let `run` announce what is due once more, and return."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Announce until told to stop."""
        backoff = Backoff(self._stop)
        looked = 0.0
        try:
            while not self._stop.is_set():
                self._wake.wait(INCARNATION_CHECK_S)
                self._wake.clear()
                if self._due or time.monotonic() - looked >= INCARNATION_CHECK_S or self._connection is None:
                    if self._attempt():
                        looked = time.monotonic()
                        backoff.reset()
                    else:
                        backoff.wait()
                self._stop.wait(self._every_s)
            self._attempt()
        finally:
            self._disconnect()

    def _attempt(self) -> bool:
        """One round; what could not be announced stays due."""
        with self._lock:
            due, self._due = self._due, _Due()
        try:
            left = self._round(due)
        except TRANSIENT_ERRORS as error:
            self._signals.warn("retries", type(error).__name__, str(error).strip(), what="announcement")
            if self._connection is not None and self._connection.closed:
                self._disconnect()
            self._keep(due)
            return False
        self._keep(left)
        return not left

    def _keep(self, due: _Due) -> None:
        with self._lock:
            self._due.touched |= due.touched
            # A newer session of the same agent wins.
            self._due.answers = due.answers | self._due.answers
        if due:
            self._wake.set()

    def _round(self, due: _Due) -> _Due:
        conn = self._connected()
        now = incarnation.current(conn)
        if self._incarnation is not None and now != self._incarnation:
            _log.warning("incarnation %s is new: answering all agents", now.id, extra={"incarnation": now.id})
            # Ids of the former life may name other agents now: begin with what this one knows.
            self._names.clear()
            due.touched = set(ledger.unfolded(conn))
            due.answers = {known.agent_id: _Answer(known.session, known.epochs) for known in agents.known(conn)}
        self._incarnation = now
        answered = {(agent_id, epoch) for agent_id, answer in due.answers.items() for epoch in answer.epochs}
        with conn.transaction():
            now = incarnation.current(conn)
            if now != self._incarnation:
                raise StoreError("the database was restored under the transaction")
            states = ledger.fold(conn, due.touched | answered)
        self._name(conn, {agent_id for agent_id, _ in due.touched} | due.answers.keys())
        return self._send(due, states, now)

    def _send(self, due: _Due, states: dict[EpochKey, EpochState], now: Incarnation) -> _Due:
        left = _Due()
        by_agent: dict[int, dict[str, EpochState]] = {}
        for agent_id, epoch in due.touched:
            by_agent.setdefault(agent_id, {})[epoch] = states[agent_id, epoch]
        for agent_id, answer in due.answers.items():
            by_agent.setdefault(agent_id, {}).update({epoch: states[agent_id, epoch] for epoch in answer.epochs})
        for agent_id, epochs in by_agent.items():
            due_answer = due.answers.get(agent_id)
            message = Committed(now.id, now.drawn_us, epochs, due_answer.session if due_answer else "")
            name = self._names.get(agent_id)
            if name is None:
                self._signals.warn("announcements", "unknown agent", "no agent has this id", agent_id=agent_id)
            elif self._publish(topics.committed(*name), message.encode()):
                self._signals.count("announcements", "sent")
            else:
                self._signals.count("announcements", "put off")
                left.touched |= {key for key in due.touched if key[0] == agent_id}
                if due_answer:
                    left.answers[agent_id] = due_answer
        return left

    def _name(self, conn: Connection, agent_ids: set[int]) -> None:
        unknown = agent_ids - self._names.keys()
        if unknown:
            self._names |= agents.names(conn, sorted(unknown))

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._connect()
            self._names.clear()
            # What a former process committed but did not live to announce.
            self.touch(ledger.unfolded(self._connection))
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
