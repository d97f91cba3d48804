"""One flush: what a number of messages say goes into the database in one transaction.

Invariants

- Ledger row, readings, quarantine, dead letters, parked messages and change feed of a message commit together
  or not at all.
- What is registered beforehand (agents, births, partitions) is registered idempotently, in short transactions
  of its own.
- What is barred (an unknown or disabled tenant, site or agent) becomes a dead letter without a ledger row: the
  agent is not told that it is committed, keeps it, and sends it again until it is taken.
- Locks are taken in one order everywhere: ledger keys, epochs, dead letters, agents; each of them sorted.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from psycopg import Rollback

from cloud_ingest.errors import BarredError, RefusedError
from cloud_ingest.ingest.config import Registration
from cloud_ingest.ingest.decode import Cleared, Dead, Parsed
from cloud_ingest.ingest.registry import Registry
from cloud_ingest.ingest.rows import Prepared, prepare
from cloud_ingest.signals import Signals
from cloud_ingest.store import agents, copy, feed, gaps, ledger, letters, parking, quarantine
from cloud_ingest.store.actions import Operator
from cloud_ingest.store.copy import Rows
from cloud_ingest.store.feed import Addition
from cloud_ingest.store.gaps import Loss
from cloud_ingest.store.ledger import Amendment, Entry, EpochKey, Outcome, Status, Verdict
from cloud_ingest.store.letters import Letter
from cloud_ingest.store.parking import Parked
from cloud_ingest.store.partitions import Partitions
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.registry import Agent
from cloud_ingest.store.times import LATEST_US
from protocols.birth import Birth
from protocols.gap import Gap
from protocols.reading import VALUE_TYPES, Batch, ValueType
from protocols.session import Session
from protocols.timebase import US

LIVE, REPLAY = "live", "replay"
"""Causes in the change feed."""
Fate = Literal["stored", "parked", "duplicate", "dead", "gone"]
"""What becomes of a dead letter that is replayed: see `Revival`."""


@dataclass(slots=True)
class Effects:
    """What a flush did that others must hear of.

    Attributes
    ----------
    touched
        Epochs whose state the agents must hear.
    agents
        Agents of these epochs, by id.
    sessions
        Online records to be answered in full, by agent id.
    births
        Whether a schema was registered, so that parked messages may be due.
    """

    touched: set[EpochKey] = field(default_factory=set)
    agents: dict[int, Agent] = field(default_factory=dict)
    sessions: dict[int, Session] = field(default_factory=dict)
    births: bool = False


@dataclass(frozen=True, slots=True)
class Revival:
    """What became of a dead letter that was replayed.

    Attributes
    ----------
    id
        The letter.
    fate
        ``stored``; ``parked`` until its schema comes; ``duplicate``, since it had been stored in the meantime;
        ``dead``, it stays a letter; ``gone``, there is no such letter any more.
    kind, reason
        Of a letter that stays; "" otherwise.
    """

    id: int
    fate: Fate
    kind: str = ""
    reason: str = ""


@dataclass(slots=True)
class _Work:
    """A message on its way through a flush."""

    message: Parsed
    agent: Agent | None = None
    prepared: Prepared | None = None
    losses: list[Loss] | None = None
    dropped: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    waits_for: bytes | None = None
    entry: Entry | None = None
    verdict: Verdict | None = None
    barred: BarredError | None = None


class Flush:
    """Writes messages through one connection.

    Parameters
    ----------
    conn
        The connection, in autocommit mode; used by nothing else.
    chunk_days
        Width of a new partition [days].
    max_ahead_s
        Readings further in the future are quarantined [s].
    signals
        Counters.
    registration
        Whether tenants, sites and agents that are new are registered.
    """

    def __init__(
        self,
        conn: Connection,
        chunk_days: int,
        max_ahead_s: float,
        signals: Signals,
        registration: Registration = "automatic",
    ) -> None:
        self._conn = conn
        self._max_ahead_us = round(max_ahead_s * US)
        self._signals = signals
        self._registry = Registry(conn, registration)
        self.partitions = Partitions(conn, chunk_days)

    def store(self, messages: Sequence[Parsed]) -> Effects:
        """Store messages in one transaction.

        Raises
        ------
        psycopg.Error
            If the database refuses or is gone; nothing is stored then.
        ContentionError
            If trying again helps.
        """
        effects = Effects()
        works = [self._work(message, effects) for message in messages]
        self._make_room(works)
        with self._conn.transaction():
            self._registry.verify()
            entered = [work for work in works if work.entry is not None]
            entries = [work.entry for work in entered if work.entry is not None]
            for work, verdict in zip(entered, ledger.enter(self._conn, entries), strict=True):
                work.verdict = verdict
            new = [work for work in entered if _is(work, Outcome.NEW)]
            put(self._conn, _of_batches(new), LIVE)
            self._park(new)
            self._lose(new)
            ledger.amend(self._conn, _amendments(entered))
            letters.add(self._conn, list(_letters(works)))
            agents.update(self._conn, list(_sessions(works)))
        self._count(works)
        for work in entered:
            assert work.entry is not None
            assert work.agent is not None
            effects.touched.add((work.entry.agent_id, work.entry.epoch))
            effects.touched |= {(work.entry.agent_id, epoch) for epoch in work.dropped}
            effects.agents[work.agent.agent_id] = work.agent
        return effects

    def replay(self, messages: Sequence[tuple[Parked, Parsed]]) -> tuple[set[EpochKey], int]:
        """Store parked messages whose schema has come, in one transaction.

        Returns
        -------
        epochs, count
            Epochs touched, and how many messages were stored by this call and not by another worker.
        """
        works = [(parked, self._replayed(parked, message)) for parked, message in messages]
        self._make_room([work for _, work in works])
        touched = set()
        with self._conn.transaction():
            self._registry.verify()
            taken = parking.take(self._conn, [parked.batch_id for parked, _ in works])
            mine = [(parked, work) for parked, work in works if parked.batch_id in taken]
            for parked, work in mine:
                # Already in the ledger: the row it got when it was parked says which batch this is.
                work.verdict = Verdict(Outcome.NEW, parked.batch_id)
            put(self._conn, _of_batches([work for _, work in mine]), REPLAY)
            self._lose([work for _, work in mine])
            self._park([work for _, work in mine])
            letters.add(self._conn, list(_letters([work for _, work in mine])))
            for parked, work in mine:
                if work.waits_for is None:
                    dead = isinstance(work.message.content, Dead)
                    span = None if work.prepared is None else work.prepared.span_us()
                    status = Status.DEAD if dead else Status.STORED
                    ledger.set_status(self._conn, parked.batch_id, status, span)
                identity = work.message.identity()
                if identity is not None:
                    touched.add((parked.agent_id, identity[1]))
        self._count([work for _, work in mine], replayed=True)
        return touched, len(mine)

    def revive(self, ident: int, message: Parsed, operator: Operator) -> Revival:
        """Store a dead letter as if it had just come, in one transaction.

        The ledger decides. The letter is removed, and the action recorded, in the transaction that stores the
        message; if it can still not be stored, the letter says why.

        Parameters
        ----------
        ident
            The letter.
        message
            What its bytes say now.
        operator
            Who replays it.

        Raises
        ------
        psycopg.Error
            If the database refuses or is gone; nothing is stored then.
        ContentionError
            If trying again helps.
        """
        work = self._work(message, Effects())
        self._make_room([work])
        revival = Revival(ident, "gone")
        with self._conn.transaction():
            self._registry.verify()
            if work.entry is not None:
                work.verdict = self._enter(work.entry)
                new = [work] if _is(work, Outcome.NEW) else []
                put(self._conn, _of_batches(new), REPLAY)
                self._park(new)
                self._lose(new)
                ledger.amend(self._conn, _amendments([work]))
            stays = self._stays(work)
            if stays is not None:
                if not letters.renew(self._conn, ident, *stays):
                    raise Rollback
                revival = Revival(ident, "dead", *stays[:2])
            else:
                fate: Fate = "duplicate"
                if _is(work, Outcome.NEW):
                    fate = "stored" if work.waits_for is None else "parked"
                outcome = {"fate": fate, "stored_as": (work.verdict.batch_id or None) if work.verdict else None}
                if not letters.settle(self._conn, ident, operator, "dlq replay", outcome):
                    raise Rollback
                revival = Revival(ident, fate)
        return revival

    def _enter(self, entry: Entry) -> Verdict:
        """Enter a dead letter's message; a dead one with its content becomes it."""
        (verdict,) = ledger.enter(self._conn, [entry])
        if verdict.outcome is Outcome.DUPLICATE and entry.status is not Status.DEAD:
            batch_id = ledger.revive(self._conn, entry)
            if batch_id is not None:
                return Verdict(Outcome.NEW, batch_id)
        return verdict

    def _stays(self, work: _Work) -> tuple[str, str, int | None] | None:
        """Kind, reason and ledger row of a letter that can still not be stored."""
        letter = _letter(work)
        if letter is not None:
            return letter.kind, letter.reason, letter.batch_id
        if isinstance(work.message.content, Session | Cleared):
            return "invalid", "it told how things stood when it came; there is nothing to store", None
        if _is(work, Outcome.DUPLICATE) and work.entry is not None and not ledger.holds(self._conn, work.entry):
            return "conflict", "the ledger counts this seq as settled, and no longer knows with which content", None
        return None

    def _work(self, message: Parsed, effects: Effects) -> _Work:
        """Look up and register what a message needs; outside the transaction."""
        work = _Work(message)
        if message.address is None or isinstance(message.content, Cleared):
            return work
        try:
            work.agent = self._registry.agent(message.address.tenant, message.address.agent)
            if not isinstance(message.content, Session):
                self._registry.admit(work.agent)
            match message.content:
                case Batch() as batch:
                    self._admit_batch(work.agent, batch)
                    self._prepare(work, batch)
                case Birth() as birth:
                    self._registry.admit_site(work.agent, birth.schema.site)
                    effects.births |= self._registry.register(work.agent, birth, bytes.fromhex(message.address.detail))
                case Gap() as lost:
                    # They will not come, whatever else may be wrong with the record.
                    work.dropped = lost.dropped
                    self._resolve(work, lost)
                case Session() as record:
                    if record.state == "online":
                        effects.sessions[work.agent.agent_id] = record
                    effects.agents[work.agent.agent_id] = work.agent
        except BarredError as refusal:
            if isinstance(message.content, Session):
                # Not for a replay: it says who is there now, and comes again with the next connection.
                work.barred = refusal
            else:
                work.message = dataclasses.replace(message, content=Dead(refusal.kind, refusal.reason))
        except RefusedError as refusal:
            work.message = message.killed(refusal.kind, refusal.reason)
        work.entry = _entry(work)
        return work

    def _admit_batch(self, sender: Agent, batch: Batch) -> None:
        points = self._registry.points(sender.tenant_id, bytes.fromhex(batch.schema_id))
        if points is not None:
            self._registry.admit_site(sender, points.site)

    def _replayed(self, parked: Parked, message: Parsed) -> _Work:
        assert message.address is not None
        work = _Work(message, self._registry.agent(message.address.tenant, message.address.agent))
        try:
            match message.content:
                case Batch() as batch:
                    self._prepare(work, batch)
                case Gap() as lost:
                    self._resolve(work, lost)
        except RefusedError as refusal:
            work.message = message.killed(refusal.kind, refusal.reason)
        return work

    def _prepare(self, work: _Work, batch: Batch) -> None:
        assert work.agent is not None
        schema_id = bytes.fromhex(batch.schema_id)
        points = self._registry.points(work.agent.tenant_id, schema_id)
        if points is None:
            work.waits_for = schema_id
        else:
            work.prepared = prepare(batch, points, time.time_ns() // 1000 + self._max_ahead_us)

    def _resolve(self, work: _Work, lost: Gap) -> None:
        """Find the points that a gap record means; it waits if one of its schemas is unknown."""
        assert work.agent is not None
        losses = []
        for item in lost.lost:
            schema_id = bytes.fromhex(item.schema_id)
            points = self._registry.points(work.agent.tenant_id, schema_id)
            if points is None:
                work.waits_for = schema_id
                return
            if item.points and max(item.points) >= len(points):
                raise RefusedError("invalid", f"point index {max(item.points)} in a schema of {len(points)} points")
            first_us, last_us = (min(max(at_us, 0), LATEST_US) for at_us in (item.first_us, item.last_us))
            if first_us > last_us:
                raise RefusedError("invalid", f"readings lost from {item.first_us} to {item.last_us} µs")
            losses.append(Loss(points.point_ids[list(item.points)].tolist(), first_us, last_us, item.readings))
        work.losses = losses

    def _make_room(self, works: Sequence[_Work]) -> None:
        for value_type in VALUE_TYPES:
            times = [
                rows.at_us
                for work in works
                if work.prepared is not None
                for rows in work.prepared.stored
                if rows.value_type == value_type
            ]
            if times:
                self.partitions.ensure(value_type, np.concatenate(times))

    def _park(self, works: Iterable[_Work]) -> None:
        parked = []
        for work in works:
            if work.waits_for is not None:
                assert work.agent is not None
                assert work.verdict is not None
                parked.append(
                    Parked(
                        work.verdict.batch_id,
                        work.agent.tenant_id,
                        work.agent.agent_id,
                        work.waits_for,
                        work.message.topic,
                        work.message.payload,
                        "the schema is not known",
                    )
                )
        if parked:
            parking.add(self._conn, parked)

    def _lose(self, works: Iterable[_Work]) -> None:
        for work in works:
            if work.losses is not None:
                assert isinstance(work.message.content, Gap)
                assert work.agent is not None
                assert work.verdict is not None
                lost = work.message.content
                batch_id = work.verdict.batch_id
                # Nothing for the change feed: no reading changes, so no account does.
                gaps.add(self._conn, batch_id, work.agent.agent_id, lost.reason, lost.dropped, work.losses)

    def _count(self, works: Sequence[_Work], *, replayed: bool = False) -> None:
        """Count after the commit, and log what went aside: once a flush for each agent and reason."""
        signals = self._signals
        aside: Counter[tuple[str, str, str, str]] = Counter()
        for work in works:
            content = work.message.content
            address = work.message.address
            agent = f"{address.tenant}/{address.agent}" if address else work.message.topic
            fresh = _is(work, Outcome.NEW)
            if work.verdict is not None and not replayed:
                signals.count("batches", work.verdict.outcome.value)
            if isinstance(content, Session):
                if work.barred is None:
                    signals.count("sessions", content.state)
                else:
                    aside["sessions", work.barred.kind, work.barred.reason, agent] += 1
            letter = _letter(work)
            if letter is not None:
                aside["dead_letters", letter.kind, letter.reason, agent] += 1
            elif fresh and work.waits_for is not None:
                aside["parked", "unknown schema", f"schema {work.waits_for.hex()}", agent] += 1
            elif fresh and isinstance(content, Gap):
                lost = sum(loss.readings for loss in work.losses or ())
                aside["gaps", content.reason, f"{lost} readings dropped by the agent", agent] += 1
            elif fresh and work.prepared is not None:
                signals.count("readings_stored", n=work.prepared.size())
                for rows, reason in work.prepared.quarantined:
                    aside["quarantined", reason, "readings with times that can't be", agent] += len(rows)
        for (name, label, message, agent), n in aside.items():
            signals.warn(name, label, message, n, agent=agent)
        if replayed:
            signals.count("replayed", n=len(works))
        signals.count("flushes")


def put(conn: Connection, batches: Sequence[tuple[Agent, int, Prepared]], cause: str) -> None:
    """Copy the readings of batches, and tell the change feed, in the current transaction."""
    prepared = [(agent, batch_id, item.of_batch(batch_id)) for agent, batch_id, item in batches]
    for value_type in VALUE_TYPES:
        parts = [rows for _, _, item in prepared for rows in item.stored if rows.value_type == value_type]
        if parts:
            copy.write(conn, copy.concatenate(parts))
    additions = []
    aside: dict[tuple[str, ValueType], list[Rows]] = {}
    for agent, batch_id, item in prepared:
        span = item.span_us()
        if span is not None:
            additions.append(Addition(agent.tenant_id, cause, item.points(), *span, batch_id))
        for rows, reason in item.quarantined:
            aside.setdefault((reason, rows.value_type), []).append(rows)
    for (reason, _), parts in aside.items():
        quarantine.add(conn, copy.concatenate(parts), reason)
    feed.append_all(conn, additions)


def _of_batches(works: Iterable[_Work]) -> list[tuple[Agent, int, Prepared]]:
    found = []
    for work in works:
        if work.prepared is not None:
            assert work.agent is not None
            assert work.verdict is not None
            found.append((work.agent, work.verdict.batch_id, work.prepared))
    return found


def _is(work: _Work, outcome: Outcome) -> bool:
    return work.verdict is not None and work.verdict.outcome is outcome


def _entry(work: _Work) -> Entry | None:
    """Ledger entry of a message, if it has an identity."""
    identity = work.message.identity()
    if identity is None or work.agent is None:
        return None
    kind, epoch, seq = identity
    content = work.message.content
    status = Status.STORED
    if isinstance(content, Dead):
        status = Status.DEAD
    elif work.waits_for is not None:
        status = Status.PARKED
    batch = content if isinstance(content, Batch) else None
    schema_id = None
    if batch is not None:
        schema_id = bytes.fromhex(batch.schema_id)
    elif isinstance(content, Birth) and work.message.address is not None:
        schema_id = bytes.fromhex(work.message.address.detail)
    return Entry(
        work.agent.agent_id,
        epoch,
        seq,
        kind,
        status,
        work.message.digest,
        0 if batch is None else len(batch),
        schema_id,
        None if work.prepared is None else work.prepared.span_us(),
        None if batch is None else batch.clock.synchronised,
    )


def _amendments(works: Iterable[_Work]) -> Iterable[Amendment]:
    for work in works:
        assert work.entry is not None
        agent_id = work.entry.agent_id
        if _is(work, Outcome.CONFLICT):
            yield Amendment(agent_id, work.entry.epoch, disputed=[work.entry.seq])
        elif _is(work, Outcome.NEW):
            for epoch, dropped in work.dropped.items():
                yield Amendment(agent_id, epoch, dropped=dropped)


def _letters(works: Iterable[_Work]) -> Iterable[Letter]:
    for work in works:
        letter = _letter(work)
        if letter is not None:
            yield letter


def _letter(work: _Work) -> Letter | None:
    """Dead letter of a message, if it is to become one."""
    content = work.message.content
    batch_id = None
    if _is(work, Outcome.CONFLICT):
        kind, reason = "conflict", "another message with this agent, epoch and seq is in the ledger"
    elif _is(work, Outcome.DROPPED):
        kind, reason = "dropped", "a gap record said that this seq would never come"
    elif isinstance(content, Dead):
        kind, reason = content.kind, content.reason
        if _is(work, Outcome.NEW) and work.verdict is not None:
            batch_id = work.verdict.batch_id
    else:
        return None
    address = work.message.address
    return Letter(
        address.tenant if address else None,
        address.agent if address else None,
        work.message.topic,
        kind,
        reason,
        work.message.digest,
        work.message.payload,
        batch_id,
    )


def _sessions(works: Iterable[_Work]) -> Iterable[tuple[int, Session]]:
    for work in works:
        if isinstance(work.message.content, Session) and work.barred is None:
            assert work.agent is not None
            yield work.agent.agent_id, work.message.content
