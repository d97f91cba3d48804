"""A damaged log: what was confirmed behind the damage is found again, and a power cut is not taken for damage."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from edge_agent.buffer import wal
from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Kind, Record
from edge_agent.config import Buffer
from edge_agent.signals import Signals
from protocols import gap as gaps
from tests.support.buffers import FRAME_BYTES, SCHEMA, commits, numbered


def abandoned(tmp_path: Path, appends: int = 20) -> Path:
    """A buffer as a killed process leaves it: nothing of its log is in the database yet."""
    path = tmp_path / "live" / "buffer.sqlite"
    outbox = opened(path)
    for number in range(appends):
        outbox.append(numbered(number)).result(60)
    left = tmp_path / "left" / "buffer.sqlite"
    left.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{left}{suffix}")
    outbox.close()
    return left


def opened(path: Path) -> Outbox:
    return Outbox(Buffer(path=path, free_space_floor_bytes=0), "acme", "gw1", SCHEMA, lambda: 1000, Signals())


def flip(path: Path, offset: int) -> None:
    log = Path(f"{path}-wal")
    content = bytearray(log.read_bytes())
    content[offset] ^= 0x10
    log.write_bytes(content)


def handed_out(outbox: Outbox) -> list[Record]:
    records: list[Record] = []
    outbox.deliver_to(lambda _, found: records.extend(found))
    outbox.restart(1).result(60)
    outbox.grant(1, 1000, 1000).result(60)
    outbox.stats().result(60)
    return records


def rows(path: Path) -> int:
    with sqlite3.connect(path) as db:
        found = db.execute("SELECT count(*) FROM record WHERE kind = 0").fetchone()[0]
    db.close()
    return int(found)


def test_a_whole_log_is_no_damage_and_neither_is_none(tmp_path: Path) -> None:
    path = abandoned(tmp_path)
    assert not wal.damaged(path)
    assert not wal.damaged(tmp_path / "missing")
    replayed = tmp_path / "replayed"
    wal.replay(path, replayed)
    assert rows(replayed) == rows(path) == 20


@pytest.mark.parametrize("where", ["page", "checksum", "page number", "salt", "header"])
def test_a_flipped_bit_in_the_log_loses_next_to_nothing(tmp_path: Path, where: str) -> None:
    path = abandoned(tmp_path)
    third = commits(path)[5]
    offsets = {"page": third + 2000, "checksum": third + 17, "page number": third + 3, "salt": third + 9, "header": 18}
    flip(path, offsets[where])
    assert wal.damaged(path)
    outbox = opened(path)
    records = handed_out(outbox)
    outbox.close()
    assert len([record for record in records if record.kind == Kind.DATA]) >= 18
    assert [gaps.decode(record.payload).reason for record in records if record.kind == Kind.GAP] == ["buffer_corrupt"]
    assert [found for found in path.parent.iterdir() if ".corrupt-" in found.name]
    assert not list(path.parent.glob("*.replayed*"))


def test_a_torn_last_transaction_is_no_damage(tmp_path: Path) -> None:
    path = abandoned(tmp_path)
    *_, start, end = commits(path)
    for at in range(start, end, FRAME_BYTES):
        torn = tmp_path / f"torn{at}" / "buffer.sqlite"
        shutil.copytree(path.parent, torn.parent)
        flip(torn, at + 100)
        assert not wal.damaged(torn)
        assert rows(torn) == 19
