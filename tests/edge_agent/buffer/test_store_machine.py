"""The buffer file against a plain model: whatever is appended, sent, committed, dropped, restored or cut off.

The model keeps sets and dictionaries; it shares no code with the SQL. After each step the file is compared
with it row by row.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.buffer.file import Owner, unpacked
from edge_agent.buffer.records import Applied, Draft, Kind, Record, State
from edge_agent.buffer.store import Store
from edge_agent.config import Buffer
from edge_agent.signals import Signals
from protocols import gap as gaps
from protocols.birth import Point, Schema
from protocols.committed import Committed, EpochState
from protocols.payload import registry
from protocols.reading import ClockState, Columns, digest

Key = tuple[str, int]

SCHEMA = Schema(
    site="plant",
    points=(
        Point(
            device="mill",
            tag="power",
            quantity="active_power",
            unit="kW",
            kind="gauge",
            medium="electricity",
            poll_interval_s=1,
            gap_limit_s=10,
        ),
    ),
)
RETAIN_BYTES = 4_000


def draft(readings: int) -> Draft:
    columns = Columns([0] * readings, list(range(readings)), [n * 1.1 for n in range(readings)], [])
    return Draft(SCHEMA.id(), 1000, ClockState(True, "boot", 5), 1000, {"float": columns})


@dataclass(frozen=True)
class Row:
    """A record as the file has it."""

    id: int
    kind: Kind
    state: State
    readings: int
    cost: int


class Database:
    """What a restored, forgetful or slow store may have: keys, and the messages it has sent."""

    def __init__(self, number: int, keys: set[Key]) -> None:
        self.incarnation = f"{number:032x}"
        self.at_us = number
        self.keys = keys
        self.positions: dict[str, int] = {}
        self.messages: list[Committed] = []

    def message(self, epochs: list[str], answers: str = "") -> Committed:
        entries = {}
        for epoch in epochs:
            seqs = sorted(seq for name, seq in self.keys if name == epoch)
            through = 0
            while through + 1 in seqs:
                through += 1
            beyond = [seq for seq in seqs if seq > through]
            self.positions[epoch] = self.positions.get(epoch, 0) + 1
            ranges = []
            for _, run in itertools.groupby(enumerate(beyond), lambda pair: pair[1] - pair[0]):
                members = [seq for _, seq in run]
                ranges.append((members[0], members[-1]))
            entries[epoch] = EpochState(self.positions[epoch], through, tuple(ranges))
        made = Committed(self.incarnation, self.at_us, entries, answers)
        self.messages.append(made)
        return made


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.settings = Buffer.model_construct(
            path=self.folder / "buffer.sqlite",
            max_bytes=10**9,
            free_space_floor_bytes=0,
            retain_committed_s=1e9,
            retain_committed_bytes=RETAIN_BYTES,
        )
        self.rows: dict[Key, Row] = {}
        self.handed_out: set[Key] = set()
        self.declared: set[Key] = set()
        self.appended = 0
        self.starts = 0
        self.generation = 0
        self.reset_lanes()
        self.applied: tuple[int, str] | None = None
        self.newest: tuple[int, str] = (-1, "")
        self.positions: dict[str, int] = {}
        self.database = Database(1, set())
        self.old_messages: list[Committed] = []

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        self.open()

    def open(self) -> None:
        before = set(self.file_epochs()) if self.settings.path.exists() else set()
        # Random epochs compress differently each time, so that a failure could not be replayed.
        self.starts += 1
        with patch.object(uuid, "uuid4", return_value=uuid.UUID(int=self.starts)):
            self.store = Store(
                self.settings.path, Owner("acme", "gw1"), self.settings, Signals(), lambda: 1000, registry.DEFAULT_CODEC
            )
        assert self.store.epoch not in before
        self.generation = 0
        self.reset_lanes()
        self.transact(lambda: self.store.append_birth(SCHEMA))
        self.expect({(self.store.epoch, 1): Kind.BIRTH})

    def reset_lanes(self) -> None:
        """Everything that is in the file is backlog, and is handed out again."""
        self.boundary = max((row.id for row in self.rows.values()), default=0) + 1
        self.credits = {True: 0, False: 0}
        self.passed: set[Key] = set()

    def transact(self, work: Callable[[], object]) -> object:
        self.store.begin()
        result = work()
        self.store.commit()
        return result

    # What the file has

    def file_epochs(self) -> list[str]:
        with sqlite3.connect(self.settings.path) as db:
            names = [name for (name,) in db.execute("SELECT name FROM epoch")]
        db.close()
        return names

    def file_rows(self) -> dict[Key, Row]:
        with sqlite3.connect(self.settings.path) as db:
            found = {
                (epoch, seq): Row(id_, Kind(kind), State(state), readings, cost)
                for id_, epoch, seq, kind, state, readings, cost in db.execute(
                    "SELECT record.id, name, seq, kind, state, readings, cost "
                    "FROM record JOIN epoch ON epoch.id = record.epoch"
                )
            }
            for expected, packed in db.execute("SELECT digest, payload FROM record"):
                assert unpacked(packed, expected) is not None
        db.close()
        return found

    def file_gaps(self) -> list[gaps.Gap]:
        with sqlite3.connect(self.settings.path) as db:
            found = [
                gaps.decode(unpacked(packed, expected) or b"")
                for expected, packed in db.execute("SELECT digest, payload FROM record WHERE kind = 2")
            ]
        db.close()
        return found

    # The model's account of a step

    def expect(self, appended: dict[Key, Kind] | None = None, states: dict[Key, State] | None = None) -> None:
        """Compare with the file, given what the step was to add and to change; judge what it removed."""
        after = self.file_rows()
        expected = {key: replace(row, state=(states or {}).get(key, row.state)) for key, row in self.rows.items()}
        declared = {
            (epoch, seq)
            for gap in self.file_gaps()
            for epoch, spans in gap.dropped.items()
            for first, last in spans
            for seq in range(first, last + 1)
        }
        # What is still here was never declared lost.
        assert not declared & after.keys()
        for key, kind in (appended or {}).items():
            assert after[key].kind == kind
            assert after[key].state == State.NEW
        for key in after.keys() - expected.keys() - (appended or {}).keys():
            # By themselves only gap records are written, and what is left of batches, in the place of one of them.
            assert after[key].state == State.NEW
            if after[key].kind != Kind.GAP:
                assert after[key].kind == Kind.DATA
                replaced = [old for old, row in self.rows.items() if row.id == after[key].id]
                assert all(old in declared and self.rows[old].state == State.NEW for old in replaced)
                assert len(replaced) == 1
        for key in expected.keys() & after.keys():
            assert after[key] == expected[key]
        self.judge_removed({key: row for key, row in expected.items() if key not in after}, after, declared)
        self.declared |= declared
        self.rows = after

    def judge_removed(self, removed: dict[Key, Row], after: dict[Key, Row], declared: set[Key]) -> None:
        for key, row in removed.items():
            if row.state == State.COMMITTED:
                if row.kind == Kind.BIRTH:
                    assert key[0] != self.store.epoch
                    assert not any(epoch == key[0] for epoch, _ in after)
                continue
            assert row.state == State.NEW
            assert row.kind != Kind.BIRTH
            assert key in declared
            assert key not in self.handed_out
        committed_left = [row for row in after.values() if row.state == State.COMMITTED and row.kind != Kind.BIRTH]
        if any(row.state == State.NEW and row.kind == Kind.DATA for row in removed.values()):
            assert not committed_left

    # Steps

    @rule(readings=st.integers(1, 60), count=st.integers(1, 4))
    def append(self, readings: int, count: int) -> None:
        before = self.last_seq()

        def work() -> None:
            for _ in range(count):
                self.store.append(draft(readings))

        self.transact(work)
        self.appended += count * readings
        assert self.last_seq() == before + count
        self.expect({(self.store.epoch, seq): Kind.DATA for seq in range(before + 1, before + count + 1)})

    def last_seq(self) -> int:
        with sqlite3.connect(self.settings.path) as db:
            found = db.execute("SELECT last_seq FROM epoch WHERE name = ?", (self.store.epoch,)).fetchone()[0]
        db.close()
        return int(found)

    @rule(pages=st.integers(0, 12))
    def make_room(self, pages: int) -> None:
        """The disk is full: come down by so many pages."""
        before = self.used()
        self.transact(lambda: self.store.make_room("disk_full", before - pages * 4096))
        self.expect()
        spare = [
            row
            for row in self.rows.values()
            if (row.state == State.NEW and row.kind == Kind.DATA)
            or (row.state == State.COMMITTED and row.kind != Kind.BIRTH)
        ]
        # A gap record may come on top.
        assert self.used() <= before - pages * 4096 + 2 * 4096 or not spare

    def used(self) -> int:
        self.store.begin()
        used = self.store.used_bytes
        self.store.commit()
        return used

    @rule()
    def reconnect(self) -> None:
        self.generation += 1
        epochs = self.transact(lambda: self.store.restart(self.generation))
        assert isinstance(epochs, tuple)
        assert {epoch for epoch, _ in self.rows} <= set(epochs)
        self.reset_lanes()
        self.expect()

    @rule(live=st.integers(0, 4), backlog=st.integers(0, 4), stale=st.booleans())
    def send(self, live: int, backlog: int, stale: bool) -> None:
        def work() -> list[Record]:
            self.store.grant(self.generation - stale, live, backlog)
            return self.store.hand_out()

        records = self.transact(work)
        assert isinstance(records, list)
        if not stale:
            self.credits[False] += live
            self.credits[True] += backlog
        chosen = self.take_births() + self.take_lane(backlog=False) + self.take_lane(backlog=True)
        assert [((record.epoch, record.seq), record.backlog) for record in records] == chosen
        for record in records:
            key = record.epoch, record.seq
            assert record.resent == (key in self.handed_out) == (self.rows[key].state == State.SENT)
            assert record.kind == self.rows[key].kind
            assert digest(record.payload)
            self.handed_out.add(key)
        self.expect(states={key: State.SENT for key, _ in chosen})

    def waiting(self, keep: Callable[[Row], bool]) -> list[Key]:
        """What was not handed out on this connection, in the order of the buffer."""
        return sorted(
            (
                key
                for key, row in self.rows.items()
                if row.state != State.COMMITTED and key not in self.passed and keep(row)
            ),
            key=lambda key: self.rows[key].id,
        )

    def take_births(self) -> list[tuple[Key, bool]]:
        taken = []
        for key in self.waiting(lambda row: row.kind == Kind.BIRTH):
            own = self.rows[key].id < self.boundary
            lane = own if self.credits[own] else not own
            if not self.credits[lane]:
                break
            self.credits[lane] -= 1
            taken.append((key, lane))
        self.passed |= {key for key, _ in taken}
        return taken

    def take_lane(self, *, backlog: bool) -> list[tuple[Key, bool]]:
        waiting = self.waiting(lambda row: row.kind != Kind.BIRTH and (row.id < self.boundary) == backlog)
        taken = waiting[: self.credits[backlog]]
        self.credits[backlog] -= len(taken)
        self.passed |= set(taken)
        return [(key, backlog) for key in taken]

    @rule(data=st.data())
    def commit_in_database(self, data: st.DataObject) -> None:
        """The database takes some of what was handed out, in any order."""
        candidates = sorted(self.handed_out - self.database.keys)
        if candidates:
            self.database.keys |= set(data.draw(st.lists(st.sampled_from(candidates), unique=True)))
        # Gap records settle what they name.
        for gap in self.file_gaps():
            if (gap.key.epoch, gap.key.seq) in self.database.keys:
                for epoch, spans in gap.dropped.items():
                    self.database.keys |= {(epoch, seq) for first, last in spans for seq in range(first, last + 1)}

    @rule(answer=st.booleans())
    def hear(self, answer: bool) -> None:
        epochs = sorted({epoch for epoch, _ in self.rows} | {self.store.epoch})
        self.apply(self.database.message(epochs, "5e55" if answer else ""))

    @precondition(lambda self: self.database.messages or self.old_messages)
    @rule(data=st.data())
    def hear_again(self, data: st.DataObject) -> None:
        """A stale message, of this incarnation or an older one."""
        message = data.draw(st.sampled_from(self.old_messages + self.database.messages))
        self.apply(replace(message, answers=""))

    @rule(data=st.data())
    def restore_database(self, data: st.DataObject) -> None:
        kept = (
            data.draw(st.lists(st.sampled_from(sorted(self.database.keys)), unique=True)) if self.database.keys else []
        )
        self.old_messages += self.database.messages
        self.database = Database(self.database.at_us + 1, set(kept))

    @rule()
    def deliver_all(self) -> None:
        """A moment in which everything works."""
        self.send(100, 100, stale=False)
        self.database.keys |= self.handed_out
        self.hear(answer=True)

    @rule(data=st.data(), heard_before=st.booleans())
    def restore_and_announce(self, data: st.DataObject, heard_before: bool) -> None:
        """The agent hears of a restored database, perhaps by another message before the answer."""
        self.restore_database(data)
        if heard_before:
            self.hear(answer=False)
        self.hear(answer=True)
        self.send(1, 2, stale=False)

    def apply(self, message: Committed) -> None:
        applied = self.transact(lambda: self.store.apply(message, "5e55"))
        assert isinstance(applied, Applied)
        heard = message.incarnation_us, message.incarnation
        full = message.answers == "5e55"
        states: dict[Key, State] = {}
        if heard >= self.newest:
            self.newest = heard
            if self.applied in (None, heard) or full:
                revive = self.applied not in (None, heard)
                if revive:
                    self.positions.clear()
                    credits = dict(self.credits)
                    self.reset_lanes()
                    self.credits = credits
                    states |= {
                        key: State.SENT
                        for key, row in self.rows.items()
                        if row.state == State.COMMITTED and not covers(message, key)
                    }
                self.applied = heard
                assert applied.revived == len(states)
                freed = set()
                for key, row in self.rows.items():
                    entry = message.epochs.get(key[0])
                    current = entry is not None and entry.position >= self.positions.get(key[0], 0)
                    if current and covers(message, key) and row.state != State.COMMITTED:
                        states[key] = State.COMMITTED
                        freed.add(row.id)
                assert set(applied.freed) == freed
                for epoch, entry in message.epochs.items():
                    self.positions[epoch] = max(entry.position, self.positions.get(epoch, 0))
                assert applied.announce is None
            else:
                assert applied == Applied(announce=message.incarnation)
        else:
            assert applied == Applied()
        self.expect(states=states)
        held = {epoch for epoch, _ in self.rows}
        self.positions = {epoch: position for epoch, position in self.positions.items() if epoch in held}

    @rule(data=st.data(), readings=st.integers(1, 30))
    def crash(self, data: st.DataObject, readings: int) -> None:
        """The process dies in the middle of a transaction; nothing of it is left, and all before it is."""
        if data.draw(st.booleans()):
            self.store.begin()
            self.store.append(draft(readings))
            self.store.grant(self.generation, 3, 3)
            self.store.hand_out()
        self.store.close()
        before = self.file_rows()
        assert before == self.rows
        self.open()

    @rule()
    def roll_back(self) -> None:
        """A transaction fails and is undone; the next one goes on as if it had not been."""
        self.store.begin()
        self.store.append(draft(5))
        self.store.grant(self.generation, 3, 3)
        self.store.hand_out()
        self.store.rollback()
        self.expect()

    # Always

    @invariant()
    def counters_are_right(self) -> None:
        if not self.rows:
            return
        self.store.begin()
        stats = self.store.stats()
        self.store.commit()
        pending = [row for row in self.rows.values() if row.state != State.COMMITTED]
        assert stats.records_pending == len(pending)
        assert stats.readings_pending == sum(row.readings for row in pending)
        assert stats.bytes_used >= sum(row.cost for row in self.rows.values()) / 2
        assert stats.readings_appended == self.appended

    @invariant()
    def seqs_have_no_holes_and_begin_with_a_birth(self) -> None:
        for epoch in {epoch for epoch, _ in self.rows}:
            seqs = {seq: row for (name, seq), row in self.rows.items() if name == epoch}
            assert seqs[1].kind == Kind.BIRTH


def covers(message: Committed, key: Key) -> bool:
    entry = message.epochs.get(key[0])
    return entry is not None and entry.covers(key[1])


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStoreMachine = StoreMachine.TestCase
