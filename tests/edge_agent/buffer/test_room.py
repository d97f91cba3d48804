"""Limits of the buffer: what goes first when there is no room, what is said of it, and what the disk feels."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from edge_agent.buffer import disk
from edge_agent.buffer.file import unpacked
from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Draft, Kind, Level, Record
from edge_agent.buffer.store import _STATS
from edge_agent.config import Buffer
from edge_agent.signals import Signals
from protocols import gap as gaps
from protocols.birth import Point, Schema
from protocols.committed import Committed, EpochState
from protocols.gap import Gap
from protocols.payload import registry
from protocols.reading import Batch, ClockState, Columns

SECOND = 1_000_000
START = 1_655_136_000 * SECOND
MEGABYTE = 1_000_000
SLACK = 80_000
"""Twice the largest batch; see the docstring of `edge_agent.buffer.room`."""
COUNTER, GAUGE, STATE, EVENT = 0, 1, 2, 3


def _point(tag: str, quantity: str, unit: str, kind: Any, medium: Any) -> Point:
    return Point(
        device="mill",
        tag=tag,
        quantity=quantity,
        unit=unit,
        kind=kind,
        medium=medium,
        poll_interval_s=1,
        gap_limit_s=900,
    )


def schema(site: str = "plant") -> Schema:
    return Schema(
        site=site,
        points=(
            _point("energy", "active_energy", "kWh", "counter", "electricity"),
            _point("power", "active_power", "kW", "gauge", "electricity"),
            _point("running", "running", "1", "state", "none"),
            _point("bags", "pieces", "1", "event", "material"),
        ),
    )


def polled(second: int, seconds: int = 50, step: int = 1, synchronised: bool = True, site: str = "plant") -> Draft:
    """Polls of all points over so many seconds, with values that hardly compress."""
    points, offsets, values = [], [], []
    for n in range(0, seconds, step):
        points += [COUNTER, GAUGE, STATE, EVENT]
        offsets += [n * SECOND] * 4
        values += [random.random(), random.random(), 1.0, random.random()]
    base_us = START + second * SECOND
    clock = ClockState(synchronised, "boot", second * SECOND)
    return Draft(schema(site).id(), base_us, clock, base_us, {"float": Columns(points, offsets, values)})


class Desk:
    """An outbox, and everything that it has to hand out."""

    def __init__(self, path: Path, site: str = "plant", **settings: Any) -> None:
        self.signals = Signals()
        given = {"max_bytes": MEGABYTE, "free_space_floor_bytes": 0} | settings
        self.outbox = Outbox(Buffer(path=path, **given), "acme", "gw1", schema(site), lambda: START, self.signals)
        self.records: list[Record] = []
        self.outbox.deliver_to(lambda _, records: self.records.extend(records))
        self.generation = 0
        self.second = 0

    def append(self, count: int, seconds: int = 50, **options: Any) -> None:
        drafts = []
        for _ in range(count):
            drafts.append(polled(self.second, seconds, **options))
            self.second += seconds
        done, _ = wait([self.outbox.append(draft) for draft in drafts], timeout=60)
        for future in done:
            future.result()

    def until(self, dropped: str, most: int = 100, **options: Any) -> None:
        """Append until something is dropped for a reason."""
        before = self.signals.drops[dropped]
        for _ in range(most):
            self.append(10, **options)
            if self.signals.drops[dropped] > before:
                return
        pytest.fail(f"nothing was dropped: {dropped}")

    def send(self, count: int = 100_000) -> list[Record]:
        """Take what a new connection would be given."""
        self.records.clear()
        self.generation += 1
        self.outbox.restart(self.generation).result(60)
        self.outbox.grant(self.generation, count, count).result(60)
        self.outbox.stats().result(60)
        return list(self.records)

    def used(self) -> int:
        return self.outbox.stats().result(60).bytes_used


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "buffer.sqlite"


@pytest.fixture
def open_desk(path: Path) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(site: str = "plant", **settings: Any) -> Desk:
        desks.append(Desk(path, site, **settings))
        return desks[-1]

    yield make
    for desk in desks:
        desk.outbox.close()


def batches(records: list[Record]) -> list[Batch]:
    return [registry.codec(record.detail).decode(record.payload) for record in records if record.kind == Kind.DATA]


def declared(records: list[Record]) -> list[Gap]:
    return [gaps.decode(record.payload) for record in records if record.kind == Kind.GAP]


def named(found: list[Gap]) -> set[tuple[str, int]]:
    return {
        (epoch, seq)
        for gap in found
        for epoch, spans in gap.dropped.items()
        for first, last in spans
        for seq in range(first, last + 1)
    }


def times(records: list[Record], point: int) -> list[int]:
    """When a point has readings, in the order in which they come [s]."""
    return [
        (batch.base_us + offset_us - START) // SECOND
        for batch in batches(records)
        for columns in batch.columns.values()
        for index, offset_us in zip(columns.points, columns.offsets_us, strict=True)
        if index == point
    ]


# The order


def test_gauges_and_states_are_thinned_before_anything_is_dropped(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.until("thinned")
    records = desk.send()
    for point in (COUNTER, EVENT):
        assert times(records, point) == list(range(desk.second))
    for point in (GAUGE, STATE):
        kept = times(records, point)
        assert len(kept) < desk.second
        # One a minute is there at least, and what is new is all there.
        assert {second // 60 for second in kept} == set(range(-(-desk.second // 60)))
        assert kept[-50:] == list(range(desk.second - 50, desk.second))
    assert set(desk.signals.drops) == {"thinned"}


def test_gauges_and_states_are_dropped_before_any_counter_and_the_oldest_first(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    # Polled once a minute, so there is nothing to thin.
    for _ in range(3):
        desk.until("size_limit", seconds=3000, step=60)
    records = desk.send()
    for point in (COUNTER, EVENT):
        assert times(records, point) == list(range(0, desk.second, 60))
    gauges = times(records, GAUGE)
    assert gauges == list(range(gauges[0], desk.second, 60))
    assert gauges[0] > 0
    assert set(desk.signals.drops) == {"size_limit"}


def test_counters_go_last_and_the_oldest_first(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    while not desk.outbox.stats().result().oldest_pending_us or times(desk_sample(desk), COUNTER)[0] == 0:
        desk.append(100)
    records = desk.send()
    counters = times(records, COUNTER)
    assert counters == list(range(counters[0], desk.second))
    # Of the others there is nothing before the newest that were not looked at yet.
    assert len(times(records, GAUGE)) < len(counters) / 5


def desk_sample(desk: Desk) -> list[Record]:
    """The oldest batch, without handing it out."""

    def work() -> list[tuple[Any, ...]]:
        return list(
            desk.outbox._store.file.db.execute(
                "SELECT detail, digest, payload FROM record WHERE kind = 0 ORDER BY id LIMIT 1"
            ).fetchall()
        )

    (detail, expected, packed), *_ = desk.outbox._submit(work).result(60)
    payload = unpacked(packed, expected)
    assert payload is not None
    return [Record(1, "", 1, Kind.DATA, detail, payload, 0, False, True)]


def test_committed_records_make_room_before_anything_is_thinned(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    while desk.used() < 0.7 * MEGABYTE:
        desk.append(10)
    by_epoch: dict[str, int] = {}
    for record in desk.send():
        by_epoch[record.epoch] = max(by_epoch.get(record.epoch, 0), record.seq)
    entries = {epoch: EpochState(1, seq) for epoch, seq in by_epoch.items()}
    desk.outbox.apply(Committed("0" * 32, 1, entries), "").result(60)
    for _ in range(8):
        desk.append(10)
    assert desk.used() <= MEGABYTE
    assert not desk.signals.drops


def test_what_was_handed_out_is_never_touched(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.append(40)
    sent = desk.send(30)
    # The live lane takes the rest; let nothing more out.
    desk.outbox.restart(desk.generation + 1).result(60)
    desk.generation += 1
    for _ in range(60):
        desk.append(10)
    again = {(record.epoch, record.seq): record.payload for record in desk.send()}
    assert desk.signals.drops["size_limit"]
    assert all(again[record.epoch, record.seq] == record.payload for record in sent)


# What is said of it


def test_every_seq_comes_or_is_named_and_every_reading_comes_or_is_counted(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    for _ in range(100):
        desk.append(10)
    records = desk.send()
    found = declared(records)
    there = {(record.epoch, record.seq) for record in records}
    assert not there & named(found)
    highest = max(record.seq for record in records)
    assert {seq for _, seq in there | named(found)} == set(range(1, highest + 1))
    lost = [item for gap in found for item in gap.lost]
    kept = sum(record.readings for record in records)
    assert kept + sum(item.readings for item in lost) == desk.outbox.stats().result().readings_appended
    assert sum(desk.signals.dropped_readings.values()) == sum(item.readings for item in lost)
    assert {gap.reason for gap in found} == {"thinned", "size_limit"}
    # They are taken together as long as they were not sent.
    assert len(found) == 2


def test_a_thinned_loss_names_only_points_that_lost_readings(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.until("thinned")
    (gap,) = declared(desk.send())
    assert gap.reason == "thinned"
    (lost,) = gap.lost
    assert lost.points == (GAUGE, STATE)
    assert START < lost.first_us < lost.last_us < START + desk.second * SECOND


def test_what_stays_keeps_its_place_and_has_a_birth_in_its_own_epoch(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    while desk.used() < 0.8 * MEGABYTE:
        desk.append(10)
    old = desk.outbox.stats().result().epochs[0]
    desk.outbox.close()
    second = desk.second
    desk = open_desk(site="quarry")
    desk.second = second
    while "thinned" not in desk.signals.drops:
        desk.append(10, site="quarry")
    records = desk.send()
    assert times(records, COUNTER) == list(range(desk.second))
    # Thinned in this process, so under its epoch, though measured under the old schema.
    moved = [batch for batch in batches(records) if batch.schema_id == schema().id() and batch.key.epoch != old]
    assert moved
    births = {(record.epoch, record.detail) for record in records if record.kind == Kind.BIRTH}
    assert {(batch.key.epoch, batch.schema_id) for batch in batches(records)} <= births


def test_thinning_keeps_changes_of_state_and_every_turn_to_bad_and_back(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    base_us = START
    values: dict[int, list[float | None]] = {
        GAUGE: [1.0] * 30 + [None] * 5 + [1.0] * 25,
        STATE: [*([0.0] * 20), *([1.0] * 7), *([0.0] * 33)],
    }
    points = [point for point in values for _ in range(60)]
    offsets = [n * SECOND for _ in values for n in range(60)]
    measured = [value for column in values.values() for value in column]
    qualities = [128 if value is None else 0 for value in measured]
    columns = Columns(points, offsets, measured, qualities)
    draft = Draft(schema().id(), base_us, ClockState(True, "boot", 1), base_us, {"float": columns})
    desk.outbox.append(draft).result(60)
    desk.second = 60
    desk.until("thinned")
    records = desk.send()
    assert [second for second in times(records, GAUGE) if second < 60] == [0, 30, 35]
    assert [second for second in times(records, STATE) if second < 60] == [0, 20, 27]


def test_batches_of_a_clock_that_was_not_synchronised_are_not_put_together(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    for _ in range(100):
        desk.append(10, synchronised=False)
        if desk.signals.drops["thinned"]:
            break
    thin = [batch for batch in batches(desk.send()) if len(batch) < 200]
    assert len(thin) >= 40
    # Readings and clock still belong together, so each can be re-timed by its own.
    assert all(batch.created_us - START == batch.clock.monotonic_us for batch in thin)
    assert all(0 <= batch.base_us - batch.created_us < 50 * SECOND for batch in thin)


def test_points_of_a_schema_that_cannot_be_read_are_dropped_last(open_desk: Callable[..., Desk], path: Path) -> None:
    desk = open_desk()
    desk.append(20)
    old = desk.outbox.stats().result().epochs[0]
    desk.outbox.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE record SET payload = zeroblob(40) WHERE kind = 1")
    db.close()
    desk = open_desk(site="quarry")
    while "size_limit" not in desk.signals.drops:
        desk.append(10, site="quarry")
    assert len([batch for batch in batches(desk.send()) if batch.key.epoch == old and len(batch) == 200]) == 20


# The disk


@pytest.mark.parametrize(("seconds", "most"), [(4, 300), (50, 60), (700, 6)])
def test_file_and_log_together_stay_below_the_limit(
    open_desk: Callable[..., Desk], path: Path, seconds: int, most: int
) -> None:
    desk = open_desk(max_bytes=2 * MEGABYTE)
    rng = random.Random(seconds)
    largest = 0
    for _ in range(60):
        desk.append(rng.randrange(1, most), seconds)
        if rng.random() < 0.2:
            desk.send(rng.randrange(1, 20))
            desk.outbox.restart(desk.generation + 1).result(60)
            desk.generation += 1
        largest = max(largest, disk.taken(path))
    assert desk.signals.drops
    assert 1.6 * MEGABYTE < largest <= 2 * MEGABYTE + SLACK


def test_a_limit_that_was_lowered_is_kept_after_a_restart(open_desk: Callable[..., Desk], path: Path) -> None:
    desk = open_desk(max_bytes=6 * MEGABYTE)
    while desk.used() < 5 * MEGABYTE:
        desk.append(50)
    desk.outbox.close()
    second = desk.second
    desk = open_desk(max_bytes=MEGABYTE)
    desk.second = second
    for _ in range(40):
        desk.append(1)
    desk.outbox.stats().result(60)
    assert disk.taken(path) <= MEGABYTE + SLACK
    assert desk.signals.drops


def test_a_log_that_one_large_batch_has_made_long_becomes_short_again(
    open_desk: Callable[..., Desk], path: Path
) -> None:
    desk = open_desk(max_bytes=4 * MEGABYTE)
    desk.append(1, seconds=40_000)
    log = path.with_name(f"{path.name}-wal")
    assert log.stat().st_size > 1.2 * MEGABYTE
    desk.append(300, seconds=10)
    assert log.stat().st_size < 0.8 * MEGABYTE


def test_what_is_given_back_is_the_disks_with_the_next_transaction(open_desk: Callable[..., Desk], path: Path) -> None:
    desk = open_desk(max_bytes=100 * MEGABYTE)
    desk.append(300)
    file = desk.outbox._store.file
    before = desk.outbox._submit(lambda: file.file_bytes).result(60)
    desk.outbox._submit(lambda: desk.outbox._store.make_room("disk_full", 0)).result(60)
    desk.outbox.stats().result(60)
    assert path.stat().st_size == desk.outbox._submit(lambda: file.file_bytes).result(60) < before / 2


def test_the_file_system_keeps_its_floor(
    open_desk: Callable[..., Desk], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up from elsewhere: the buffer gives way, and takes its room again when that is gone."""
    floor, size = 5 * MEGABYTE, 100 * MEGABYTE
    others = 0

    def space(_: Path) -> tuple[int, int]:
        return size - others - disk.taken(path), size

    monkeypatch.setattr(disk, "space", space)
    desk = open_desk(max_bytes=8 * MEGABYTE, free_space_floor_bytes=floor)
    while disk.taken(path) < 4 * MEGABYTE:
        desk.append(50)
    assert not desk.signals.drops
    others = size - floor - 3 * MEGABYTE
    for _ in range(60):
        desk.append(1)
    desk.append(1)
    assert space(path)[0] >= floor - SLACK
    assert disk.taken(path) > 1.5 * MEGABYTE
    assert desk.signals.drops
    # Far below the floor a little is still kept, so that what is measured now can pass through.
    others = size
    for _ in range(60):
        desk.append(1)
    assert 0.8 * MEGABYTE < disk.taken(path) <= 2 * MEGABYTE + SLACK
    assert times(desk.send(), COUNTER)[-1] == desk.second - 1
    others = 0
    before = desk.signals.drops.total()
    for _ in range(10):
        desk.append(20)
    assert desk.signals.drops.total() == before


def test_a_floor_is_never_more_than_a_share_of_a_small_file_system(tmp_path: Path) -> None:
    assert disk.floor_bytes(None, 10**12) == 200_000_000
    assert disk.floor_bytes(None, 10**8) == 5_000_000
    assert disk.floor_bytes(7, 10**8) == 7
    free, total = disk.space(tmp_path / "buffer.sqlite")
    found = os.statvfs(tmp_path)
    assert total == found.f_blocks * found.f_frsize
    assert 0 < free <= total


def test_levels_are_stored_numbers() -> None:
    assert [(level.name, int(level)) for level in Level] == [("RAW", 0), ("THINNED", 1), ("ESSENTIAL", 2)]


def _sources(path: Path, query: str) -> set[str]:
    """Tables and indices that a query takes columns from."""
    with sqlite3.connect(path) as db:
        names = dict(db.execute("SELECT rootpage, name FROM sqlite_master"))
        steps = db.execute(f"EXPLAIN {query}").fetchall()
    db.close()
    opened = {cursor: names[page] for _, code, cursor, page, *_ in steps if code == "OpenRead"}
    return {opened[cursor] for _, code, cursor, *_ in steps if code == "Column"}


def test_what_waits_is_counted_without_reading_it(open_desk: Callable[..., Desk], path: Path) -> None:
    desk = open_desk()
    desk.append(3)
    assert _sources(path, _STATS) == {"pending"}


def test_a_file_of_the_first_version_is_taken_on(open_desk: Callable[..., Desk], path: Path) -> None:
    desk = open_desk()
    desk.append(3)
    desk.outbox.close()
    with sqlite3.connect(path) as db:
        for index in ("droppable", "gap", "pending"):
            db.execute(f"DROP INDEX {index}")
        db.execute("ALTER TABLE record DROP COLUMN level")
        db.execute("CREATE INDEX pending ON record (id) WHERE state < 2")
    db.close()
    desk = open_desk()
    assert _sources(path, _STATS) == {"pending"}
    desk.second = 150
    desk.until("thinned")
    assert times(desk.send(), COUNTER) == list(range(desk.second))
