"""The outbox on a disk that forgets, fills up and rots: nothing is lost that the contract promises.

A random course of appends, deliveries, answers of a database that is slow, stale or restored, dropped data, power
cuts, kills, full disks, disks that refuse, damage, and restarts under another configuration. After each step all
records are read. Then, of all that was ever confirmed to be on disk:

- each record is there unchanged, or the database has it, or a gap record names it, and that is one of the two;
- each reading of a counter is there once, under one identity, or its batch is named;
- what was handed out is not dropped, and is known to be perhaps with the broker;
- no identity ever has two contents.

Only damage may take more than that, and then it is told. METERCARBON_MACHINE_EXAMPLES sets how many courses are
tried (30 by default).
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from edge_agent.buffer import outbox as outboxes
from edge_agent.buffer.file import unpacked
from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Draft, Kind, Record, State
from edge_agent.config import Buffer
from edge_agent.signals import Signals
from protocols import gap as gaps
from protocols.birth import Point, Schema
from protocols.committed import Committed, EpochState
from protocols.payload import registry
from protocols.reading import ClockState, Columns
from tests.support.buffers import commits
from tests.support.power import Disk

EXAMPLES = int(os.environ.get("METERCARBON_MACHINE_EXAMPLES", "30"))
SECOND = 1_000_000
SMALL, LARGE = 400_000, 600_000
COUNTER, GAUGE = 0, 1
PAGE = 4096
Key = tuple[str, int]


def schema(site: str) -> Schema:
    return Schema(
        site=site,
        points=tuple(
            Point(
                device="mill",
                tag=tag,
                quantity=quantity,
                unit=unit,
                kind=kind,
                medium="electricity",
                poll_interval_s=1,
                gap_limit_s=900,
            )
            for tag, quantity, unit, kind in (
                ("energy", "active_energy", "kWh", "counter"),
                ("power", "active_power", "kW", "gauge"),
            )
        ),
    )


class OutboxMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp())
        self.stack.callback(shutil.rmtree, self.folder)
        self.disk = Disk(self.folder)
        self.stack.enter_context(patch.object(os, "fsync", self.disk.fsync))
        self.stack.enter_context(patch.object(outboxes, "_RETRY_S", 0.005))
        # Nothing is random that hypothesis does not know of, so that a failure can be replayed.
        self.uuids = random.Random(1)
        self.stack.enter_context(
            patch.object(uuid, "uuid4", lambda: uuid.UUID(int=self.uuids.getrandbits(128), version=4))
        )
        self.noise = random.Random(2)
        self.path = self.folder / "buffer.sqlite"
        self.signals = Signals()
        self.site = "plant"
        self.max_bytes = SMALL
        self.outbox: Outbox | None = None
        self.generation = 0
        self.second = 0
        self.batches = 0
        self.drafts: dict[float, int] = {}
        """Readings of its counter, by batch, as long as they are promised."""
        self.payloads: dict[Key, bytes] = {}
        self.counts: dict[Key, Counter[float]] = {}
        self.known: dict[Key, set[float]] = {}
        self.delivered: dict[Key, Record] = {}
        self.delivered_then: set[Key] = set()
        self.incarnation = 1
        self.position = 0
        self.database: set[Key] = set()
        self.old_messages: list[Committed] = []
        self.rows: dict[Key, State] = {}
        self.resolved: set[Key] = set()

    def teardown(self) -> None:
        if self.outbox is not None:
            self.outbox.close()
        self.stack.close()

    # Opening and looking

    @initialize()
    def begin(self) -> None:
        self.open()

    def open(self) -> None:
        settings_ = Buffer.model_construct(
            path=self.path,
            max_bytes=self.max_bytes,
            free_space_floor_bytes=0,
            retain_committed_s=1e9,
            retain_committed_bytes=50_000,
        )
        self.outbox = Outbox(
            settings_,
            "acme",
            "gw1",
            schema(self.site),
            lambda: 1000,
            self.signals,
            open_database=self.disk.connect,
        )
        self.outbox.deliver_to(self.deliver)
        self.look()

    def box(self) -> Outbox:
        assert self.outbox is not None
        return self.outbox

    def deliver(self, _: int, records: list[Record]) -> None:
        if self.disk.is_cut:
            return
        for record in records:
            key = record.epoch, record.seq
            self.note(key, record.payload, record.kind, record.detail)
            assert record.resent or key not in self.delivered
            self.delivered[key] = record

    def note(self, key: Key, payload: bytes, kind: Kind, codec: str) -> None:
        """Content of an identity: always the same."""
        if self.payloads.setdefault(key, payload) != payload:
            raise AssertionError(f"{key} has two contents")
        if key not in self.counts:
            self.counts[key] = Counter()
            if kind == Kind.DATA:
                batch = registry.codec(codec).decode(payload)
                assert (batch.key.epoch, batch.key.seq) == key
                columns = batch.columns["float"]
                for point, value in zip(columns.points, columns.values, strict=True):
                    if point == COUNTER:
                        assert isinstance(value, float)
                        self.counts[key][value] += 1

    def read(self) -> tuple[dict[Key, State], set[Key], set[Key]]:
        """What is in the file; what its gap records name, for want of room and because of damage."""

        def work() -> list[Any]:
            # This very transaction may hand out more.
            self.delivered_then = set(self.delivered)
            return list(
                self.box()
                ._store.file.db.execute(
                    "SELECT name, seq, kind, state, detail, digest, payload FROM record "
                    "JOIN epoch ON epoch.id = record.epoch"
                )
                .fetchall()
            )

        found: dict[Key, State] = {}
        named: set[Key] = set()
        self.corrupt: set[Key] = set()
        self.told = False
        for epoch, seq, kind, state, detail, expected, packed in self.box()._submit(work).result(60):
            payload = unpacked(packed, expected)
            if payload is None:
                # Damaged; given up when it is handed out.
                continue
            key = epoch, seq
            assert key not in found
            found[key] = State(state)
            self.note(key, payload, Kind(kind), detail)
            if kind == Kind.GAP:
                self.read_gap(payload, named)
        for key in self.database:
            record = self.delivered.get(key)
            if record is not None and record.kind == Kind.GAP:
                self.read_gap(record.payload, named)
        return found, named, self.corrupt

    def read_gap(self, payload: bytes, named: set[Key]) -> None:
        gap = gaps.decode(payload)
        self.told |= gap.reason == "buffer_corrupt"
        target = self.corrupt if gap.reason == "buffer_corrupt" else named
        for epoch, spans in gap.dropped.items():
            target |= {(epoch, seq) for first, last in spans for seq in range(first, last + 1)}

    def look(self, *, damaged: bool = False) -> None:
        """Read everything, and compare with what was promised."""
        found, named, corrupt = self.read()
        assert not (named | corrupt) & found.keys()
        missing = self.known.keys() - found.keys() - self.database - named - corrupt
        if damaged and missing:
            assert self.told
            self.forget(missing)
            missing = set()
        assert not missing
        self.forget(corrupt & self.known.keys())
        assert not named & self.delivered.keys()
        for key, state in found.items():
            self.known.setdefault(key, set(self.counts[key]))
            if key in self.delivered_then:
                assert state != State.NEW
        self.rows = found
        held: Counter[float] = Counter()
        for key in found.keys() | self.database:
            held += self.counts.get(key, Counter())
        named_numbers = {number for key in named for number in self.counts.get(key, ())}
        gone = set()
        for number, readings in self.drafts.items():
            if held[number]:
                assert held[number] == readings, number
            else:
                gone.add(number)
        # What was dropped in the very step that wrote it was never seen under its identity.
        unseen = named - self.counts.keys() - self.resolved
        assert len(gone - named_numbers) <= len(unseen)
        self.resolved |= set(sorted(unseen)[: len(gone - named_numbers)])
        for number in gone:
            del self.drafts[number]

    def forget(self, keys: Iterable[Key]) -> None:
        """Damage took these: whatever they held is not promised any more."""
        for key in list(keys):
            self.known.pop(key, None)
            self.delivered.pop(key, None)
            for number in self.counts.get(key, ()):
                self.drafts.pop(number, None)

    # Writing

    def draft(self, seconds: int) -> tuple[float, Draft]:
        self.batches += 1
        number = float(self.batches)
        base_us = self.second * SECOND
        self.second += seconds
        points = [COUNTER, GAUGE] * seconds
        offsets = [n * SECOND for n in range(seconds) for _ in range(2)]
        values = [value for _ in range(seconds) for value in (number, self.noise.random())]
        columns = Columns(points, offsets, values)
        return number, Draft(schema(self.site).id(), base_us, ClockState(True, "boot", 5), base_us, {"float": columns})

    def write(self, count: int, seconds: int, *, together: bool) -> None:
        """Hand batches to the outbox, one by one, or so that they are committed together."""
        made = [self.draft(seconds) for _ in range(count)]
        if together:
            self.box()._submit(lambda: list(map(self.box()._store.append, (draft for _, draft in made)))).result(30)
        for number, draft in made:
            if not together:
                self.box().append(draft).result(30)
            if not self.disk.is_cut:
                self.drafts[number] = seconds

    @rule(count=st.integers(1, 12), seconds=st.integers(1, 150), together=st.booleans())
    def append(self, count: int, seconds: int, together: bool) -> None:
        self.write(count, seconds, together=together)
        self.look()

    @rule(site=st.sampled_from(["plant", "quarry", "depot"]))
    def adopt(self, site: str) -> None:
        self.box().adopt(schema(site)).result(60)
        self.site = site
        self.look()

    # Sending

    @rule(live=st.integers(0, 8), backlog=st.integers(0, 8), anew=st.booleans())
    def publish(self, live: int, backlog: int, anew: bool) -> None:
        if anew:
            self.generation += 1
            self.box().restart(self.generation).result(60)
        self.box().grant(self.generation, live, backlog).result(60)
        self.look()

    @precondition(lambda self: self.delivered)
    @rule(data=st.data(), answer=st.booleans(), heard=st.booleans())
    def commit(self, data: st.DataObject, answer: bool, heard: bool) -> None:
        """The database takes some of what was delivered, in any order, and says so or is slow to."""
        candidates = sorted(self.delivered.keys() - self.database)
        if candidates:
            chosen = data.draw(st.sets(st.sampled_from(candidates)))
            self.database |= chosen
        if heard:
            self.hear(self.message(answers="5e55" if answer else ""))
        self.look()

    @precondition(lambda self: self.old_messages)
    @rule(data=st.data())
    def hear_a_stale_message(self, data: st.DataObject) -> None:
        self.hear(data.draw(st.sampled_from(self.old_messages)))
        self.look()

    @precondition(lambda self: self.database)
    @rule(data=st.data(), told_before=st.booleans())
    def restore_the_database(self, data: st.DataObject, told_before: bool) -> None:
        kept = data.draw(st.sets(st.sampled_from(sorted(self.database))))
        gone = self.database - kept
        for key in list(gone):
            if self.delivered[key].kind == Kind.GAP:
                self.read_gap(self.delivered[key].payload, gone)
        self.database = kept
        self.incarnation += 1
        self.position = 0
        if told_before:
            self.hear(self.message())
        self.hear(self.message(answers="5e55"))
        # What was deleted here because the database had it is lost with it; that is told, and not declared.
        found, named, corrupt = self.read()
        lost = self.known.keys() - found.keys() - kept - named - corrupt
        assert lost <= gone
        self.forget(lost)
        self.look()

    @precondition(lambda self: self.old_messages and self.delivered.keys() - self.database)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Where the broker's word is enough."""
        candidates = sorted(self.delivered.keys() - self.database)
        chosen = data.draw(st.sets(st.sampled_from(candidates), min_size=1, max_size=3))
        self.database |= chosen

        def work() -> None:
            db = self.box()._store.file.db
            for epoch, seq in chosen:
                for (id_,) in db.execute(
                    "SELECT record.id FROM record JOIN epoch ON epoch.id = record.epoch WHERE name = ? AND seq = ?",
                    (epoch, seq),
                ).fetchall():
                    self.box()._store.settle([id_])

        self.box()._submit(work).result(60)
        self.look()

    def message(self, answers: str = "") -> Committed:
        self.position += 1
        entries = {}
        for epoch in {epoch for epoch, _ in self.rows} | {epoch for epoch, _ in self.database}:
            seqs = sorted(seq for name, seq in self.database if name == epoch)
            runs = [[seq for _, seq in run] for _, run in groupby(enumerate(seqs), lambda pair: pair[1] - pair[0])]
            entries[epoch] = EpochState(self.position, 0, tuple((run[0], run[-1]) for run in runs))
        made = Committed(f"{self.incarnation:032x}", self.incarnation, entries, answers)
        self.old_messages.append(Committed(made.incarnation, made.incarnation_us, made.epochs))
        return made

    def hear(self, message: Committed) -> None:
        self.box().apply(message, "5e55").result(60)

    # Trouble

    def reopened(self, during: Callable[[], None], *, damaged: bool = False) -> None:
        """Let the process end, do something to what it leaves behind, and start it anew."""
        self.box().close()
        self.disk.power_on()
        during()
        self.generation = 0
        self.outbox = None
        self.open_after(damaged=damaged)

    def open_after(self, *, damaged: bool) -> None:
        if not damaged:
            self.open()
            return
        look, self.look = self.look, lambda **_: None  # type: ignore[method-assign]
        try:
            self.open()
        finally:
            self.look = look  # type: ignore[method-assign]
        # All is read that there is, so that damage is found now and not in a later step.
        self.read()
        self.box().load(self.ids()).result(60)
        self.look(damaged=True)

    def ids(self) -> list[int]:
        def work() -> list[int]:
            return [id_ for (id_,) in self.box()._store.file.db.execute("SELECT id FROM record").fetchall()]

        return self.box()._submit(work).result(60)

    @rule(
        operations=st.integers(0, 120),
        seed=st.integers(0, 2**16),
        share=st.sampled_from([0.0, 0.5, 0.95]),
        count=st.integers(1, 8),
        together=st.booleans(),
    )
    def cut_the_power(self, operations: int, seed: int, share: float, count: int, together: bool) -> None:
        self.disk.cut_after(operations, seed, share)
        self.write(count, 60, together=together)
        self.box().grant(self.generation, 2, 2).result(60)
        self.disk.cut(seed, share)
        self.reopened(lambda: None)

    @rule(site=st.sampled_from(["plant", "quarry"]), max_bytes=st.sampled_from([SMALL, LARGE]), kill=st.booleans())
    def restart(self, site: str, max_bytes: int, kill: bool) -> None:
        """Another configuration, after an orderly end or a kill."""
        self.site, self.max_bytes = site, max_bytes
        if kill:
            self.disk.kill()
            self.reopened(lambda: None)
        else:
            self.box().close()
            self.generation = 0
            self.open()

    @rule(room=st.integers(0, 60_000), refusals=st.integers(1, 12), count=st.integers(1, 8))
    def fill_the_disk(self, room: int, refusals: int, count: int) -> None:
        self.trouble("room", room, refusals, count)

    @rule(operations=st.integers(0, 40), refusals=st.integers(1, 12), count=st.integers(1, 4))
    def refuse(self, operations: int, refusals: int, count: int) -> None:
        """The disk gives errors for a while."""
        self.trouble("refuse_after", operations, refusals, count)

    def trouble(self, limit: str, value: int, refusals: int, count: int) -> None:
        setattr(self.disk, limit, value)
        self.disk.refusals = refusals
        self.write(count, 60, together=False)
        self.disk.works()
        self.look()

    @rule(where=st.sampled_from(["page", "sector", "log", "cut short"]), seed=st.integers(0, 2**16))
    def damage(self, where: str, seed: int) -> None:
        self.disk.kill()
        self.reopened(lambda: self.spoil(where, random.Random(seed)), damaged=True)

    def spoil(self, where: str, rng: random.Random) -> None:
        path = self.path
        if where == "log":
            path = Path(f"{self.path}-wal")
            ends = commits(self.path)
            if len(ends) < 2:
                return
        content = bytearray(path.read_bytes())
        if where == "log":
            # Not in the last transaction: of that nobody can tell damage from a power cut.
            content[rng.randrange(ends[-2])] ^= 1 << rng.randrange(8)
        elif where == "cut short":
            del content[rng.randrange(1, len(content) // PAGE + 1) * PAGE :]
        else:
            size = PAGE if where == "page" else 512
            at = rng.randrange(len(content) // size) * size
            content[at : at + size] = rng.randbytes(size)
        with path.open("r+b") as file:
            file.write(content)
            file.truncate(len(content))


OutboxMachine.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    # A course is not made shorter when it fails: that would take longer than a test may.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestOutboxMachine = OutboxMachine.TestCase
