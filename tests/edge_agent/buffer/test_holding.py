"""What waits in the buffer for the gateway's clock, and how it is re-timed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.buffer import holding
from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Draft, Kind, Record
from edge_agent.clock import BOOT_ID, UNKNOWN_BOOT
from edge_agent.config import Buffer
from edge_agent.signals import Signals
from protocols import birth as births
from protocols import gap as gaps
from protocols.payload import registry
from protocols.quality import Quality
from protocols.reading import Batch, ClockState, Columns
from tests.support.buffers import SCHEMA

RIGHT_US = 1_700_000_000_000_000
"""Real time at the zero of the monotonic clock."""
WRONG_US = 100_000_000
"""What the gateway takes it for: 1970."""


class Held:
    """An outbox, and what it handed out since the last look."""

    def __init__(self, path: Path, *, holding: bool) -> None:
        self.records: list[Record] = []
        settings = Buffer(path=path, free_space_floor_bytes=0)
        self.outbox = Outbox(settings, "acme", "gw1", SCHEMA, lambda: RIGHT_US, Signals(), holding=holding)
        self.outbox.deliver_to(lambda _, records: self.records.extend(records))
        self.outbox.restart(1).result(60)
        self.outbox.grant(1, 100_000, 100_000).result(60)

    def append(self, number: int, offset_us: int, *, synchronised: bool = False) -> None:
        """A batch with readings at 1 s and 2 s of the monotonic clock, and a bit, by a clock with an offset."""
        columns = Columns([0, 0], [0, 1_000_000], [number, -number], [Quality.GOOD, Quality.UNCERTAIN])
        clock = ClockState(synchronised, BOOT_ID, 3_000_000)
        draft = Draft(SCHEMA.id(), offset_us + 3_000_000, clock, offset_us + 1_000_000 + number, {"float": columns})
        self.outbox.append(draft).result(60)

    def release(self, offset_us: int | None) -> None:
        while self.outbox.release(offset_us).result(60):
            continue
        self.outbox.stats().result(60)

    def taken(self, kind: Kind) -> list[Record]:
        return [record for record in self.records if record.kind == kind]

    def batches(self) -> list[Batch]:
        return [registry.codec(record.detail).decode(record.payload) for record in self.taken(Kind.DATA)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "buffer.sqlite"


@pytest.fixture
def held(path: Path) -> Iterator[Held]:
    made = Held(path, holding=True)
    yield made
    made.outbox.close()


def test_nothing_goes_out_before_the_clock_is_right_not_even_the_birth(held: Held) -> None:
    held.append(1, WRONG_US)
    assert held.records == []
    stats = held.outbox.stats().result(60)
    assert (stats.records_pending, stats.readings_pending) == (2, 2)


def test_what_waited_is_retimed_by_the_monotonic_clock_and_marked(held: Held) -> None:
    for number in range(3):
        held.append(number, WRONG_US)
    held.release(RIGHT_US)
    assert held.records[0].kind == Kind.BIRTH
    assert births.decode(held.records[0].payload).created_us == RIGHT_US
    found = held.batches()
    assert [batch.base_us for batch in found] == [RIGHT_US + 1_000_000 + number for number in range(3)]
    assert [batch.created_us for batch in found] == [RIGHT_US + 3_000_000] * 3
    assert all(batch.clock.synchronised for batch in found)
    assert [list(batch.columns["float"].values) for batch in found] == [[n, -n] for n in range(3)]
    assert {tuple(batch.columns["float"].qualities) for batch in found} == {(Quality.GOOD_RETIMED, Quality.UNCERTAIN)}


def test_the_old_identities_are_taken_back_and_nothing_is_said_to_be_lost(held: Held) -> None:
    held.append(1, WRONG_US)
    epoch = held.outbox._store.epoch
    held.release(RIGHT_US)
    [record] = held.taken(Kind.GAP)
    gap = gaps.decode(record.payload)
    assert gap.reason == "retimed"
    assert gap.lost == ()
    assert gap.dropped == {epoch: ((1, 2),)}
    seqs = sorted(found.seq for found in held.records)
    assert seqs == [3, 4, 5]


def test_without_a_right_time_what_waited_goes_out_as_it_is(held: Held) -> None:
    held.append(1, WRONG_US)
    held.release(None)
    [batch] = held.batches()
    assert (batch.key.seq, batch.base_us) == (2, WRONG_US + 1_000_001)
    assert not batch.clock.synchronised
    assert held.taken(Kind.GAP) == []


def test_a_batch_whose_times_are_right_is_not_touched(held: Held) -> None:
    held.append(1, WRONG_US)
    held.append(2, RIGHT_US, synchronised=True)
    held.release(RIGHT_US)
    again, same = held.batches()
    assert again.key.seq > same.key.seq == 3
    assert again.base_us == RIGHT_US + 1_000_001
    assert same.columns["float"].qualities[0] == Quality.GOOD


def test_clocks_that_stood_differently_are_each_put_right(held: Held) -> None:
    for number, offset_us in enumerate((WRONG_US, RIGHT_US - 3_600_000_000, RIGHT_US + 3_600_000_000)):
        held.append(number, offset_us)
    held.release(RIGHT_US)
    assert [batch.base_us - RIGHT_US for batch in held.batches()] == [1_000_000, 1_000_001, 1_000_002]


def test_more_than_one_transactions_worth_comes_out_whole_and_in_order(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "_ROWS", 7)
    for number in range(40):
        held.append(number, WRONG_US)
    held.release(RIGHT_US)
    assert [batch.columns["float"].values[0] for batch in held.batches()] == list(range(40))
    assert {batch.base_us // 1_000_000 for batch in held.batches()} == {(RIGHT_US + 1_000_000) // 1_000_000}


def test_what_comes_after_the_release_goes_out_at_once(held: Held) -> None:
    held.append(1, WRONG_US)
    held.release(RIGHT_US)
    held.append(2, RIGHT_US, synchronised=True)
    assert [batch.columns["float"].values[0] for batch in held.batches()] == [1, 2]
    held.outbox.hold().result(60)
    held.append(3, WRONG_US)
    assert len(held.batches()) == 2
    held.release(RIGHT_US)
    assert [batch.columns["float"].values[0] for batch in held.batches()] == [1, 2, 3]


def test_the_waiting_outlives_the_process_within_a_boot(path: Path) -> None:
    first = Held(path, holding=True)
    first.append(1, WRONG_US)
    first.outbox.close()
    second = Held(path, holding=True)
    second.append(2, WRONG_US)
    assert second.records == []
    second.release(RIGHT_US)
    # What is newer goes first; see the lanes.
    assert [batch.base_us for batch in second.batches()] == [RIGHT_US + 1_000_002, RIGHT_US + 1_000_001]
    second.outbox.close()


def test_what_waited_in_another_boot_goes_out_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Held(path, holding=True)
    first.append(1, WRONG_US)
    first.outbox.close()
    monkeypatch.setattr(holding, "BOOT_ID", "another")
    second = Held(path, holding=False)
    [batch] = second.batches()
    assert (batch.base_us, batch.clock.synchronised) == (WRONG_US + 1_000_001, False)
    second.release(RIGHT_US)
    assert len(second.batches()) == 1
    second.outbox.close()


def test_where_boots_have_no_names_nothing_is_taken_for_this_boots(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "BOOT_ID", UNKNOWN_BOOT)
    first = Held(path, holding=True)
    first.append(1, WRONG_US)
    first.outbox.close()
    second = Held(path, holding=False)
    assert [batch.base_us for batch in second.batches()] == [WRONG_US + 1_000_001]
    second.outbox.close()


def test_an_older_backlog_does_not_wait(path: Path) -> None:
    first = Held(path, holding=False)
    first.append(1, RIGHT_US, synchronised=True)
    first.outbox.close()
    second = Held(path, holding=True)
    second.append(2, WRONG_US)
    assert [batch.columns["float"].values[0] for batch in second.batches()] == [1]
    second.outbox.close()
