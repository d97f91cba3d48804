"""Power cuts: what the buffer has confirmed is there afterwards, whatever else the disk has lost."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from concurrent.futures import wait
from pathlib import Path

import pytest

from edge_agent.buffer import outbox as outboxes
from edge_agent.buffer import salvage, wal
from edge_agent.buffer.file import Owner, connect
from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Record
from edge_agent.buffer.store import Store
from edge_agent.config import Buffer
from edge_agent.signals import Signals
from protocols.payload import registry
from tests.support.buffers import SCHEMA, numbered
from tests.support.power import Disk


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk(tmp_path)
    monkeypatch.setattr(os, "fsync", found.fsync)
    return found


def opened(disk: Disk) -> Store:
    path = disk.directory / "buffer.sqlite"
    store = Store(
        path,
        Owner("acme", "gw1"),
        Buffer(path=path, free_space_floor_bytes=0),
        Signals(),
        lambda: 1000,
        registry.DEFAULT_CODEC,
        open_database=disk.connect,
    )
    store.begin()
    store.append_birth(SCHEMA)
    store.commit()
    salvage.sync_directory(path)
    return store


def confirmed_before_cut(disk: Disk, store: Store, operations: int, seed: int, share: float) -> int:
    """Append until the power is cut; says how many appends were confirmed before."""
    disk.cut_after(operations, seed, share)
    number = 0
    while True:
        store.begin()
        store.append(numbered(number))
        store.commit()
        if disk.is_cut:
            store.close()
            disk.power_on()
            return number
        number += 1


def kept(disk: Disk) -> set[int]:
    """Numbers of the appends that are in the file."""
    with sqlite3.connect(disk.directory / "buffer.sqlite") as db:
        found = {first for (first,) in db.execute("SELECT first_us FROM record WHERE kind = 0")}
    db.close()
    return found


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_what_was_confirmed_survives_any_power_cut(disk: Disk, share: float) -> None:
    for seed in range(12):
        for file in disk.directory.iterdir():
            file.unlink()
        store = opened(disk)
        operations = random.Random(seed).randrange(400)
        confirmed = confirmed_before_cut(disk, store, operations, seed, share)
        found = kept(disk)
        assert set(range(confirmed)) <= found, (seed, operations)
        assert found <= set(range(confirmed + 1))


@pytest.mark.parametrize("laxity", ["synchronous = NORMAL", "synchronous = OFF", "a disk that ignores syncs"])
def test_the_power_cut_loses_what_was_not_synced(disk: Disk, laxity: str) -> None:
    """The test above means something: with less than the contract says, the same cut loses what was confirmed."""
    store = opened(disk)
    if laxity.startswith("synchronous"):
        store.file.db.execute(f"PRAGMA {laxity}")
    else:
        disk.ignore_syncs = True
    confirmed = confirmed_before_cut(disk, store, 100, 1, 0.0)
    disk.ignore_syncs = False
    assert confirmed >= 5
    assert set(range(confirmed)) - kept(disk)


def test_what_was_undone_is_not_taken_for_what_was_confirmed(disk: Disk) -> None:
    """Transactions that could not be synced leave whole frames in the log; nothing of them may come back."""
    store = opened(disk)
    for number, readings in ((1, 9000), (2, 5000)):
        store.begin()
        store.append(numbered(number, readings))
        disk.refuse_syncs = True
        with pytest.raises(sqlite3.OperationalError):
            store.commit()
        store.rollback()
        disk.refuse_syncs = False
    store.begin()
    store.append(numbered(3))
    store.commit()
    disk.kill()
    store.close()
    disk.power_on()
    path = disk.directory / "buffer.sqlite"
    assert not wal.damaged(path)
    assert kept(disk) == {3}


def test_the_name_of_a_new_file_survives_once_it_is_told(disk: Disk) -> None:
    store = opened(disk)
    disk.cut(share=0.0)
    store.close()
    disk.power_on()
    assert (disk.directory / "buffer.sqlite").exists()


def test_the_power_cut_loses_a_name_that_was_not_synced(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(salvage, "sync_directory", lambda _: None)
    store = opened(disk)
    disk.cut(share=0.0)
    store.close()
    disk.power_on()
    assert not (disk.directory / "buffer.sqlite").exists()


@pytest.mark.parametrize("trouble", ["room", "refuse_after"])
def test_a_damaged_file_is_replaced_as_soon_as_the_disk_lets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """Whenever the disk begins to refuse while the new file is made, nothing readable is lost."""
    monkeypatch.setattr(outboxes, "_RETRY_S", 0.001)
    for start in range(0, 100_000 if trouble == "room" else 400, 20_000 if trouble == "room" else 9):
        disk = Disk(tmp_path / str(start))
        disk.directory.mkdir()
        monkeypatch.setattr(os, "fsync", disk.fsync)
        readable, recovered, stalls = replaced(disk, trouble, start)
        assert recovered == readable, start
        assert len(recovered) > 20
        assert start > 40 or stalls > 0, start


def replaced(disk: Disk, trouble: str, start: int) -> tuple[set[int], set[int], int]:
    """Damage a buffer at work, on a disk that makes trouble for a while.

    Gives the seqs that are found in a copy without trouble, those that are handed out, and how often it was tried.
    """
    path = disk.directory / "buffer.sqlite"
    signals = Signals()

    def opened() -> Outbox:
        settings = Buffer(path=path, free_space_floor_bytes=0)
        return Outbox(settings, "acme", "gw1", SCHEMA, lambda: 1000, signals, open_database=disk.connect)

    first = opened()
    (epoch,) = first.stats().result(60).epochs
    wait([first.append(numbered(number)) for number in range(60)])
    first.close()
    outbox = opened()
    records: list[Record] = []
    outbox.deliver_to(lambda _, found: records.extend(found))
    outbox.restart(1).result(60)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xa5" * 4 * 4096)
    copy = disk.directory.with_name(f"{disk.directory.name}-copy") / "buffer.sqlite"
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    untroubled = Outbox(Buffer(path=copy), "acme", "gw1", SCHEMA, lambda: 1000, Signals())
    untroubled.load(range(1, 100)).result(60)
    readable = {record.seq for record in untroubled.load(range(1, 1000)).result(60) if record.epoch == epoch}
    untroubled.close()
    setattr(disk, trouble, start)
    disk.refusals = 6
    outbox.grant(1, 1000, 1000).result(60)
    outbox.append(numbered(60)).result(60)
    disk.works()
    outbox.stats().result(60)
    outbox.close()
    assert outbox.failure is None
    assert [found for found in disk.directory.iterdir() if ".corrupt-" in found.name]
    return readable, {record.seq for record in records if record.epoch == epoch}, signals.stalls


def test_the_product_itself_uses_the_library_of_python(tmp_path: Path) -> None:
    """Only these tests run on another SQLite."""
    db = connect(tmp_path / "x")
    assert isinstance(db, sqlite3.Connection)
    db.close()
