"""The outbox as its users see it: threads, group commit, restarts, copies, corruption, a full disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

from edge_agent.buffer import outbox as outboxes
from edge_agent.buffer import salvage
from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Draft, Kind, Record
from edge_agent.buffer.store import Store
from edge_agent.config import Buffer
from edge_agent.errors import OutboxClosedError, OutboxLockedError, OutboxOwnerError
from edge_agent.signals import Signals
from protocols import birth as births
from protocols import gap as gaps
from protocols.birth import Point, Schema
from protocols.committed import Committed, EpochState
from protocols.payload import registry
from protocols.reading import ClockState, Columns
from tests.support.waiting import wait_until


def schema(tag: str = "power") -> Schema:
    point = Point(
        device="mill",
        tag=tag,
        quantity="active_power",
        unit="kW",
        kind="gauge",
        medium="electricity",
        poll_interval_s=1,
        gap_limit_s=10,
    )
    return Schema(site="plant", points=(point,))


def draft(readings: int = 10, start: int = 0) -> Draft:
    columns = Columns([0] * readings, list(range(readings)), [start + n * 1.1 for n in range(readings)], [0] * readings)
    return Draft(schema().id(), 1000, ClockState(True, "boot", 5), 1_000_000, {"float": columns})


class Desk:
    """An outbox and what it has handed out."""

    def __init__(self, path: Path, tag: str = "power", **settings: float) -> None:
        self.signals = Signals()
        given: dict[str, Any] = {
            "max_bytes": 10**8,
            "retain_committed_s": 3600.0,
            "retain_committed_bytes": 10**8,
        } | settings
        self.records: list[Record] = []
        self.outbox = Outbox(
            Buffer.model_construct(path=path, **given), "acme", "gw1", schema(tag), lambda: 5_000_000, self.signals
        )
        self.outbox.deliver_to(lambda _, records: self.records.extend(records))

    def append(self, count: int, readings: int = 10) -> None:
        done, _ = wait([self.outbox.append(draft(readings, n)) for n in range(count)], timeout=60)
        for future in done:
            future.result()

    def send(self, generation: int, count: int) -> list[Record]:
        """Take what a new connection would be given."""
        self.records.clear()
        self.outbox.restart(generation).result(60)
        self.outbox.grant(generation, count, count).result(60)
        # Delivered before the next transaction begins.
        self.outbox.stats().result(60)
        return list(self.records)

    def commit(self, records: list[Record], position: int = 1) -> None:
        by_epoch: dict[str, list[tuple[int, int]]] = {}
        for record in records:
            by_epoch.setdefault(record.epoch, []).append((record.seq, record.seq))
        entries = {epoch: EpochState(position, 0, tuple(sorted(ranges))) for epoch, ranges in by_epoch.items()}
        self.outbox.apply(Committed("0" * 32, 1, entries), "").result(60)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "buffer.sqlite"


@pytest.fixture
def open_desk(path: Path) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(at: Path = path, tag: str = "power", **settings: float) -> Desk:
        desks.append(Desk(at, tag, **settings))
        return desks[-1]

    yield make
    for desk in desks:
        desk.outbox.close()


def keys(records: list[Record]) -> list[tuple[str, int]]:
    return [(record.epoch, record.seq) for record in records]


def test_records_come_out_in_order_with_the_birth_first(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.append(3)
    records = desk.send(1, 100)
    assert [record.kind for record in records] == [Kind.BIRTH, Kind.DATA, Kind.DATA, Kind.DATA]
    assert [record.seq for record in records] == [1, 2, 3, 4]
    birth = births.decode(records[0].payload)
    assert birth.schema == schema()
    assert birth.key.seq == 1
    batch = registry.codec(records[1].detail).decode(records[1].payload)
    assert (batch.key.epoch, batch.key.seq, len(batch)) == (records[1].epoch, 2, 10)
    assert not any(record.resent for record in records)


def test_what_is_appended_later_is_delivered_without_being_asked_for_again(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.send(1, 100)
    desk.append(2)
    wait_until(lambda: [record.seq for record in desk.records] == [1, 2, 3], "delivery of what was appended")


def test_a_new_connection_is_given_everything_pending_again(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.append(2)
    first = desk.send(1, 2)
    again = desk.send(2, 100)
    assert keys(again)[:2] == keys(first)
    assert [record.resent for record in again] == [True, True, False]


# Lanes


def test_each_lane_goes_as_far_as_it_was_granted_and_in_order(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.append(5)
    desk.outbox.restart(1).result(60)
    desk.append(4)
    desk.outbox.grant(1, 2, 3).result(60)
    desk.outbox.stats().result(60)
    # The birth is of the backlog, so it uses its grant.
    assert [(record.seq, record.backlog) for record in desk.records] == [
        *((1, True), (7, False), (8, False)),
        *((2, True), (3, True)),
    ]
    desk.records.clear()
    desk.outbox.grant(1, 0, 2).result(60)
    desk.outbox.stats().result(60)
    assert [(record.seq, record.backlog) for record in desk.records] == [(4, True), (5, True)]
    desk.records.clear()
    desk.outbox.grant(1, 10, 10).result(60)
    desk.append(1)
    desk.outbox.stats().result(60)
    assert [(record.seq, record.backlog) for record in desk.records] == [
        *((9, False), (10, False)),
        *((6, True), (11, False)),
    ]
    assert {record.seq: record.backlog for record in desk.outbox.load(range(1, 12)).result(60)} == {
        seq: seq <= 6 for seq in range(1, 12)
    }


def test_a_birth_goes_before_the_data_of_both_lanes_on_either_grant(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.append(2)
    desk.outbox.restart(1).result(60)
    desk.outbox.adopt(schema("load")).result(60)
    desk.append(1)
    desk.outbox.grant(1, 3, 0).result(60)
    desk.outbox.stats().result(60)
    assert [(record.kind, record.backlog) for record in desk.records] == [
        *((Kind.BIRTH, False), (Kind.BIRTH, False)),
        (Kind.DATA, False),
    ]


def test_what_a_restored_store_brings_back_is_backlog(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.outbox.restart(1).result(60)
    desk.outbox.grant(1, 100, 0).result(60)
    desk.append(3)
    desk.outbox.stats().result(60)
    epoch = desk.records[0].epoch
    assert [record.backlog for record in desk.records] == [False] * 4
    desk.outbox.apply(answer(1, {epoch: EpochState(7, 4)}), "5e55").result(60)
    desk.records.clear()
    assert desk.outbox.apply(answer(2, {epoch: EpochState(1, 2)}), "5e55").result(60).revived == 2
    desk.append(1)
    desk.outbox.stats().result(60)
    assert [(record.seq, record.backlog) for record in desk.records] == [(5, False)]
    desk.outbox.grant(1, 0, 10).result(60)
    desk.outbox.stats().result(60)
    assert [(record.seq, record.backlog) for record in desk.records[1:]] == [(3, True), (4, True)]


def test_only_what_the_store_has_is_freed(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.append(4)
    records = desk.send(1, 100)
    desk.commit([records[0], records[2]])
    assert keys(desk.send(2, 100)) == [keys(records)[n] for n in (1, 3, 4)]
    assert desk.outbox.stats().result().readings_pending == 30


def test_a_restart_keeps_everything_pending_under_a_new_epoch(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.append(3)
    sent = desk.send(1, 2)
    desk.outbox.close()
    again = open_desk()
    again.append(1)
    records = again.send(1, 100)
    epochs = again.outbox.stats().result().epochs
    assert len(epochs) == 2
    assert keys(records) == [
        *((epoch, 1) for epoch in epochs),
        *((epochs[0], seq) for seq in (2, 3, 4)),
        (epochs[1], 2),
    ]
    # Marked before they were handed out, so known to be perhaps with the broker after a crash too.
    assert {key for key, record in zip(keys(records), records, strict=True) if record.resent} == set(keys(sent))
    assert again.outbox.stats().result().readings_appended == 40


def test_a_copy_of_the_file_begins_an_epoch_of_its_own(
    open_desk: Callable[..., Desk], tmp_path: Path, path: Path
) -> None:
    desk = open_desk()
    desk.append(2)
    clone = tmp_path / "clone.sqlite"
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{clone}{suffix}")
    copy = open_desk(clone)
    desk.append(1)
    copy.append(1)
    original, copied = desk.send(1, 100), copy.send(1, 100)
    shared = set(keys(original)) & set(keys(copied))
    assert len(shared) == 3
    payloads = {(record.epoch, record.seq): record.payload for record in original}
    assert all(
        payloads[key] == record.payload for key, record in zip(keys(copied), copied, strict=True) if key in shared
    )
    assert not {epoch for epoch, _ in set(keys(copied)) - shared} & {epoch for epoch, _ in keys(original)}


def test_an_edited_configuration_orphans_nothing(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.append(2)
    desk.outbox.close()
    edited = open_desk(tag="load")
    records = edited.send(1, 100)
    assert [record.kind for record in records] == [Kind.BIRTH, Kind.BIRTH, Kind.DATA, Kind.DATA]
    assert {record.detail for record in records if record.kind == Kind.BIRTH} == {schema().id(), schema("load").id()}


def test_another_agents_buffer_is_refused(open_desk: Callable[..., Desk], path: Path) -> None:
    open_desk().outbox.close()
    with pytest.raises(
        OutboxOwnerError, match=r"buffer.sqlite has format, tenant and agent \('1', 'acme', 'gw1'\).*other"
    ):
        Outbox(Buffer(path=path), "acme", "other", schema(), lambda: 0, Signals())
    open_desk()


def test_two_processes_cannot_open_one_buffer(open_desk: Callable[..., Desk], path: Path) -> None:
    desk = open_desk()
    with pytest.raises(OutboxLockedError, match=f"in use by process {os.getpid()}; allowed: one agent per buffer file"):
        open_desk()
    script = (
        "import sys; from pathlib import Path; from edge_agent.buffer.lock import FileLock\nFileLock(Path(sys.argv[1]))"
    )
    root = Path(__file__).parents[3]
    other = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60, cwd=root, check=False
    )
    assert other.returncode != 0
    assert "OutboxLockedError" in other.stderr
    desk.outbox.close()
    open_desk()


def test_an_append_is_on_disk_when_its_future_is_done(
    open_desk: Callable[..., Desk], path: Path, tmp_path: Path
) -> None:
    desk = open_desk()
    desk.outbox.append(draft()).result(60)
    # What another process would find now, had this one died.
    copy = tmp_path / "copy.sqlite"
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    with sqlite3.connect(copy) as db:
        assert db.execute("SELECT count(*) FROM record WHERE kind = 0").fetchone() == (1,)
        assert db.execute("SELECT value FROM meta WHERE name = 'readings_appended'").fetchone() == ("10",)
    db.close()


def test_commits_are_synced_in_full(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()

    def pragmas() -> tuple[str, int]:
        db = desk.outbox._store.file.db
        mode = db.execute("PRAGMA journal_mode").fetchone()[0]
        return mode, db.execute("PRAGMA synchronous").fetchone()[0]

    assert desk.outbox._submit(pragmas).result(60) == ("wal", 2)


def test_appends_that_gather_are_committed_together(
    open_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = open_desk()
    commits = []
    original = Store.commit
    gate = threading.Event()

    def counted(store: Store) -> None:
        gate.wait(60)
        commits.append(1)
        original(store)

    monkeypatch.setattr(Store, "commit", counted)
    futures = [desk.outbox.append(draft()) for _ in range(100)]
    gate.set()
    wait(futures, timeout=60)
    assert len(commits) < 10


def test_committed_records_are_kept_for_their_time_and_then_deleted(open_desk: Callable[..., Desk], path: Path) -> None:
    def committed(at: Path) -> int:
        with sqlite3.connect(at) as db:
            found = db.execute("SELECT count(*) FROM record WHERE state = 2 AND kind = 0").fetchone()[0]
        db.close()
        return int(found)

    desk = open_desk(retain_committed_s=0.0)
    desk.append(3)
    desk.commit(desk.send(1, 100))
    assert committed(path) == 0
    other = path.with_name("other")
    kept = open_desk(other, retain_committed_s=3600.0)
    kept.append(3)
    kept.commit(kept.send(1, 100))
    assert committed(other) == 3

    def another_after(seconds: int, generation: int) -> None:
        with sqlite3.connect(other, timeout=30) as db:
            db.execute("UPDATE record SET committed_us = committed_us - ? WHERE state = 2", (seconds * 10**6,))
        db.close()
        kept.append(1)
        kept.commit(kept.send(generation, 100))

    another_after(3400, 2)
    assert committed(other) == 4
    another_after(400, 3)
    assert committed(other) == 2


def test_epochs_without_records_are_forgotten(open_desk: Callable[..., Desk]) -> None:
    for _ in range(4):
        desk = open_desk(retain_committed_s=0.0)
        desk.append(1)
        desk.outbox.close()
    desk = open_desk(retain_committed_s=0.0)
    assert len(desk.outbox.stats().result().epochs) == 5
    desk.commit(desk.send(1, 100))
    assert len(desk.outbox.stats().result().epochs) == 1


def answer(incarnation: int, entries: dict[str, EpochState]) -> Committed:
    return Committed(f"{incarnation:032x}", incarnation, entries, "5e55")


def test_a_restored_store_is_sent_again_what_it_lacks(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.append(4)
    records = desk.send(1, 100)
    epoch = records[0].epoch
    desk.outbox.apply(answer(1, {epoch: EpochState(7, 5)}), "5e55").result(60)
    assert desk.send(2, 100) == []
    restored = Committed(f"{2:032x}", 2, {epoch: EpochState(1, 2)})
    assert desk.outbox.apply(restored, "5e55").result(60).announce == restored.incarnation
    assert desk.outbox.apply(answer(2, {epoch: EpochState(1, 2, ((4, 4),))}), "5e55").result(60).revived == 2
    assert [(record.seq, record.resent) for record in desk.send(3, 100)] == [(3, True), (5, True)]
    # What the old incarnation says is of no interest any more.
    desk.outbox.apply(answer(1, {epoch: EpochState(9, 5)}), "5e55").result(60)
    assert [record.seq for record in desk.send(4, 100)] == [3, 5]


def test_what_neither_store_nor_buffer_has_is_told_but_not_declared_lost(
    open_desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    """Another copy of the buffer may still hold it, and would throw it away if it were declared lost."""
    desk = open_desk(retain_committed_bytes=0)
    desk.append(4)
    records = desk.send(1, 100)
    epoch = records[0].epoch
    desk.outbox.apply(answer(1, {epoch: EpochState(7, 4)}), "5e55").result(60)
    # 2 to 4 were deleted here; a restored store lacks 3 and 4 (and 5, which is still pending here).
    for _ in range(2):
        desk.outbox.apply(answer(2, {epoch: EpochState(1, 2)}), "5e55").result(60)
    assert not [record for record in desk.send(2, 100) if record.kind == Kind.GAP]
    assert not desk.signals.drops
    told = [message for message in caplog.messages if "neither in the store nor in this buffer" in message]
    assert told == [f"epoch {epoch}: 2 records are neither in the store nor in this buffer"]


def test_a_stale_answer_frees_and_tells_nothing(
    open_desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    desk = open_desk(retain_committed_bytes=0)
    desk.append(4)
    epoch = desk.send(1, 100)[0].epoch
    desk.outbox.apply(answer(1, {epoch: EpochState(7, 5)}), "5e55").result(60)
    desk.outbox.apply(answer(1, {epoch: EpochState(3, 2)}), "5e55").result(60)
    assert not desk.signals.drops
    assert not [message for message in caplog.messages if "neither in the store" in message]
    assert desk.outbox.stats().result().records_pending == 0


def test_where_the_broker_is_enough_its_word_frees(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.append(2)
    records = desk.send(1, 100)
    desk.outbox.settle([records[1].id]).result(60)
    assert [record.seq for record in desk.send(2, 100)] == [1, 3]


# Damage


def damage(path: Path, offset: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * size)


def quarantined(path: Path) -> list[Path]:
    return sorted(
        found
        for found in path.parent.iterdir()
        if ".corrupt-" in found.name and not found.name.endswith(("-wal", "-shm"))
    )


def test_a_file_that_is_not_a_database_is_put_aside_and_polling_goes_on(
    open_desk: Callable[..., Desk], path: Path
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all " * 1000)
    # Left behind by an attempt that died.
    path.with_name("buffer.sqlite.salvage").write_bytes(b"half a database")
    desk = open_desk()
    desk.append(1)
    assert [found.read_bytes()[:11] for found in quarantined(path)] == [b"no database"]
    records = desk.send(1, 100)
    assert [record.kind for record in records if record.seq == 1] == [Kind.BIRTH, Kind.BIRTH]
    assert "buffer_corrupt" in {gaps.decode(r.payload).reason for r in records if r.kind == Kind.GAP}


def test_what_is_readable_of_a_corrupt_file_is_recovered(
    open_desk: Callable[..., Desk], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = open_desk()
    desk.append(400, readings=100)
    sent = {(record.epoch, record.seq): record.payload for record in desk.send(1, 10_000)}
    desk.outbox.close()
    size = path.stat().st_size
    damage(path, size // 2 // 4096 * 4096, 5 * 4096)
    again = open_desk()
    # Handing out reads every page, so damage that opening did not meet is met now.
    again.send(1, 10_000)
    records = again.send(2, 10_000)
    recovered = {key: record.payload for key, record in zip(keys(records), records, strict=True) if key in sent}
    assert all(sent[key] == payload for key, payload in recovered.items())
    assert 300 <= len(recovered) < 401
    assert len(quarantined(path)) == 1
    # That something is lost is on record; which seqs is not declared, since a backup may still hold them.
    epoch = next(iter(sent))[0]
    entries = {found: EpochState(1, 0) for found in again.outbox.stats().result().epochs}
    again.outbox.apply(answer(1, entries), "5e55").result(60)
    found = [gaps.decode(record.payload) for record in again.send(3, 10_000) if record.kind == Kind.GAP]
    assert {gap.reason for gap in found} == {"buffer_corrupt"}
    assert not any(gap.dropped for gap in found)
    missing = len({seq for _, seq in sent} - {seq for name, seq in recovered if name == epoch})
    assert f"epoch {epoch}: {missing} records are neither in the store nor in this buffer" in caplog.messages


def test_a_recovered_buffer_still_notices_that_the_store_was_restored(
    open_desk: Callable[..., Desk], path: Path
) -> None:
    desk = open_desk()
    desk.append(400, readings=100)
    epoch = desk.send(1, 10_000)[0].epoch
    desk.outbox.apply(answer(1, {epoch: EpochState(7, 200)}), "5e55").result(60)
    desk.outbox.close()
    damage(path, path.stat().st_size * 3 // 4 // 4096 * 4096, 5 * 4096)
    again = open_desk()
    again.send(1, 10_000)
    assert len(quarantined(path)) == 1
    entries = {found: EpochState(1, 0) for found in again.outbox.stats().result().epochs}
    applied = again.outbox.apply(answer(2, entries), "5e55").result(60)
    assert applied.revived > 100


def test_damage_met_at_work_does_not_stop_the_work(open_desk: Callable[..., Desk], path: Path) -> None:
    desk = open_desk()
    desk.append(300, readings=100)
    desk.outbox.close()
    again = open_desk()
    again.outbox.restart(5).result(60)
    again.outbox.grant(5, 3, 3).result(60)
    size = path.stat().st_size
    damage(path, size // 3 // 4096 * 4096, 20 * 4096)
    again.outbox.grant(5, 10_000, 10_000).result(60)
    again.append(1)
    assert again.outbox.failure is None
    assert len(quarantined(path)) == 1
    wait_until(lambda: any(record.kind == Kind.GAP for record in again.records), "delivery after the replacement")
    # Same connection, same grants: the publisher need not know, and takes no record for another.
    names: dict[int, set[tuple[str, int]]] = {}
    for record in again.records:
        names.setdefault(record.id, set()).add((record.epoch, record.seq))
    assert all(len(found) == 1 for found in names.values())


def test_a_damaged_payload_is_given_up_with_a_gap_record(open_desk: Callable[..., Desk], path: Path) -> None:
    desk = open_desk()
    desk.append(3)
    desk.outbox.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE record SET payload = zeroblob(40) WHERE seq = 3")
    db.close()
    again = open_desk()
    records = again.send(1, 100)
    old = again.outbox.stats().result().epochs[0]
    assert [record.seq for record in records if record.epoch == old] == [1, 2, 4]
    found = [gaps.decode(record.payload) for record in records if record.kind == Kind.GAP]
    assert [(gap.reason, gap.dropped) for gap in found] == [("buffer_corrupt", {old: ((3, 3),)})]
    assert again.signals.dropped_readings == {"buffer_corrupt": 10}


@pytest.mark.parametrize(
    "change", ["seq = 77", "seq = 'x'", "detail = CAST(x'ff' AS TEXT)", "kind = 9", "readings = NULL"]
)
def test_a_row_that_cannot_be_right_is_read_by_its_message(
    open_desk: Callable[..., Desk], path: Path, change: str
) -> None:
    desk = open_desk()
    desk.append(3)
    sent = {(record.epoch, record.seq): record.payload for record in desk.send(1, 100)}
    desk.outbox.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, 'readings INTEGER NOT NULL', 'readings INTEGER')")
    db.close()
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE record SET {change} WHERE seq = 3")
    db.close()
    again = open_desk()
    again.send(1, 100)
    records = again.send(2, 100)
    found = {key: record.payload for key, record in zip(keys(records), records, strict=True)}
    assert again.outbox.failure is None
    assert all(found[key] == payload for key, payload in sent.items() if key in found)
    # Nothing else is lost, and this one only if nobody can say what it is.
    missing = sent.keys() - found.keys()
    assert missing <= {(next(iter(sent))[0], 3)}
    if missing:
        reasons = {gaps.decode(record.payload).reason for record in records if record.kind == Kind.GAP}
        assert reasons == {"buffer_corrupt"}
    elif change.startswith("seq"):
        assert len(quarantined(path)) == 1


def test_a_damaged_row_with_another_records_seq_declares_nothing_lost(
    open_desk: Callable[..., Desk], path: Path
) -> None:
    """A gap record that named the other one would have it thrown away."""
    desk = open_desk()
    desk.append(3)
    (epoch,) = desk.outbox.stats().result().epochs
    desk.outbox.close()
    with sqlite3.connect(path) as db:
        detail, expected = db.execute("SELECT detail, digest FROM record WHERE seq = 3").fetchone()
    db.close()
    content = bytearray(path.read_bytes())
    at = content.index(expected)
    seq_at = content.rindex(detail.encode(), 0, at) - 1
    assert content[seq_at] == 3
    content[at] ^= 1
    content[seq_at] = 2
    path.write_bytes(content)
    again = open_desk()
    records = again.send(1, 100)
    assert {record.seq for record in records if record.epoch == epoch} == {1, 2, 4}
    found = [gaps.decode(record.payload) for record in records if record.kind == Kind.GAP]
    assert [(gap.reason, gap.dropped) for gap in found] == [("buffer_corrupt", {})]


def root_page(path: Path, table: str) -> int:
    """Where a table begins in the file."""
    with sqlite3.connect(path) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    db.close()
    return (int(page) - 1) * 4096


def other_log(tmp_path: Path) -> Path:
    """A log that is whole, and belongs to another file."""
    other, log = tmp_path / "other.sqlite", tmp_path / "log"
    db = sqlite3.connect(other)
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    db.execute("CREATE TABLE other (x)")
    shutil.copy(f"{other}-wal", log)
    db.close()
    return log


def test_a_crash_while_a_corrupt_file_is_replaced_loses_nothing_readable(
    open_desk: Callable[..., Desk], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = open_desk()
    desk.append(50)
    sent = set(keys(desk.send(1, 1000)))
    desk.outbox.close()
    damage(path, root_page(path, "meta"), 4096)
    log = other_log(tmp_path)
    calls = []
    finish = salvage.finish

    def die_between_the_renames(at: Path) -> bool:
        calls.append(at)
        if len(calls) == 3:
            # And the log was still there.
            shutil.copy(log, f"{path}-wal")
            raise KeyboardInterrupt
        return finish(at)

    monkeypatch.setattr(salvage, "finish", die_between_the_renames)
    with pytest.raises(KeyboardInterrupt):
        open_desk()
    assert not path.exists()
    again = open_desk()
    assert sent <= set(keys(again.send(1, 1000)))
    assert not path.with_name("buffer.sqlite.salvage").exists()
    assert len(quarantined(path)) == 1


# Full disks and other trouble


def limit_pages(desk: Desk, pages: int) -> int:
    def work() -> int:
        db = desk.outbox._store.file.db
        now = db.execute("PRAGMA page_count").fetchone()[0]
        return int(db.execute(f"PRAGMA max_page_count = {now + pages}").fetchone()[0])

    return desk.outbox._submit(work).result(60)


def test_a_full_disk_drops_old_data_with_a_gap_record_and_goes_on(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.append(200, readings=100)
    limit_pages(desk, 5)
    for _ in range(10):
        desk.append(10, readings=100)
    assert desk.outbox.failure is None
    assert desk.signals.stalls >= 1
    assert desk.signals.dropped_readings["disk_full"] > 0
    records = desk.send(1, 10_000)
    kept = sum(record.readings for record in records)
    assert kept + desk.signals.dropped_readings.total() == 300 * 100
    reasons = {gaps.decode(record.payload).reason for record in records if record.kind == Kind.GAP}
    assert reasons == {"thinned", "disk_full"}


def test_a_disk_that_cannot_be_written_is_tried_again_until_it_can(
    open_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "_RETRY_S", 0.01)
    desk = open_desk()
    broken = True
    original = Store.commit

    def commit(store: Store) -> None:
        if broken:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        original(store)

    monkeypatch.setattr(Store, "commit", commit)
    future = desk.outbox.append(draft())
    wait_until(lambda: desk.signals.stalls >= 3, "several attempts")
    assert not future.done()
    broken = False
    future.result(60)
    assert [record.seq for record in desk.send(1, 100)] == [1, 2]


def test_a_mistake_in_the_writer_fails_whoever_waits(
    open_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = open_desk()

    def wrong(_store: Store) -> list[Record]:
        raise ZeroDivisionError

    monkeypatch.setattr(Store, "hand_out", wrong)
    with pytest.raises(OutboxClosedError, match="has failed"):
        desk.outbox.append(draft()).result(60)
    wait_until(lambda: isinstance(desk.outbox.failure, ZeroDivisionError), "the failure to be known")
    with pytest.raises(OutboxClosedError, match="has failed"):
        desk.outbox.append(draft()).result(60)


def test_whoever_stops_waiting_does_not_stop_the_writer(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    gate = threading.Event()
    desk.outbox._submit(lambda: gate.wait(60))
    # As asyncio does with a future that a cancelled task was waiting for.
    desk.outbox.stats().cancel()
    gate.set()
    desk.append(1)
    assert desk.outbox.failure is None


def test_a_closed_outbox_refuses_and_has_written_what_came_before(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    futures: list[Future[None]] = [desk.outbox.append(draft()) for _ in range(50)]
    desk.outbox.close()
    for future in futures:
        future.result(0)
    with pytest.raises(OutboxClosedError, match="is closed"):
        desk.outbox.append(draft()).result(60)
    assert open_desk().outbox.stats().result().readings_appended == 500


def test_closing_gives_up_on_a_disk_that_cannot_be_written(
    open_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = open_desk()

    def commit(_store: Store) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    monkeypatch.setattr(Store, "commit", commit)
    future = desk.outbox.append(draft())
    started = time.monotonic()
    desk.outbox.close(timeout_s=0.2)
    assert time.monotonic() - started < 60
    with pytest.raises(OutboxClosedError):
        future.result(0)
