"""A corrupt buffer file: what is readable is carried over to a new one, the old one is kept under another name.

The new file is built beside the corrupt one and takes its place only when it is complete, so a crash in
between loses nothing that was readable: the next start finds either the corrupt file again, or the finished
new one. Of several corrupt files the last is kept, so that they don't fill the disk.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_agent.buffer import ranges, wal
from edge_agent.buffer.disk import SUFFIXES
from edge_agent.buffer.file import identity, unpacked
from edge_agent.buffer.records import Kind, State
from edge_agent.buffer.store import Store
from protocols import gap as gaps

_log = logging.getLogger(__name__)
_ROWS_PER_COMMIT = 500
_ROWS = (
    "SELECT kind, state, detail, readings, first_us, last_us, committed_us, digest, payload "
    "FROM record NOT INDEXED ORDER BY id {order}"
)
_ASIDE = ".corrupt-"
_MAX_SEQ = 2**62
_INCARNATION = re.compile(r"-?\d+ [0-9a-f]{32}")


def rebuild(path: Path, make: Callable[[Path], Store]) -> None:
    """Put a corrupt file aside and a new one in its place, with what was readable of the old one.

    Parameters
    ----------
    path
        The corrupt file; nobody has it open.
    make
        Opens a new file and writes its birth.
    """
    if finish(path):
        return
    store = make(_beside(path))
    try:
        rows = _Salvage(store).carry_over(path)
        store.begin()
        store.append_event("buffer_corrupt")
        store.commit()
        # The file takes its place without its log.
        store.file.restart_wal()
    finally:
        store.close()
    aside = _put_aside(path, SUFFIXES)
    _log.error("buffer %s is corrupt; it is kept as %s, and %d records of it were recovered", path, aside, rows)
    finish(path)


def finish(path: Path) -> bool:
    """Complete a replacement that a crash interrupted after the corrupt file was put aside; says whether it did.

    One that was interrupted earlier is forgotten.
    """
    fresh = _beside(path)
    if path.exists() or not fresh.exists():
        _remove(fresh)
        return False
    # A log beside the new file would be taken for its own.
    _put_aside(path, SUFFIXES[1:])
    sync_directory(path)
    fresh.replace(path)
    sync_directory(path)
    return True


def _put_aside(path: Path, suffixes: Sequence[str]) -> Path:
    """Rename a file and what belongs to it; of those put aside earlier only the last is kept."""
    aside = path.with_name(f"{path.name}{_ASIDE}{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}")
    if suffixes == SUFFIXES:
        for older in path.parent.glob(f"{glob.escape(path.name)}{_ASIDE}*"):
            older.unlink()
    for suffix in suffixes:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").replace(f"{aside}{suffix}")
    return aside


def sync_directory(path: Path) -> None:
    """Bring the names in the file's directory to the disk."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.salvage")


def _remove(path: Path) -> None:
    for suffix in SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


class _Salvage:
    """Fills a new buffer from what is readable of an old one; each row's identity is that of its checked message."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: set[tuple[str, int]] = set()
        self._declared: dict[str, list[ranges.Range]] = {}

    def carry_over(self, path: Path) -> int:
        """Copy what is readable; returns how many records."""
        self._store.begin()
        if wal.damaged(path):
            replayed = path.with_name(f"{path.name}.replayed")
            wal.replay(path, replayed)
            self._copy(replayed)
            _remove(replayed)
            # What can't be read there may be in the part of the log before the damage, as it was then.
            self._copy(path, older=True)
        else:
            self._copy(path)
        self._store.commit()
        return len(self._seen)

    def _copy(self, path: Path, *, older: bool = False) -> None:
        try:
            old = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        except sqlite3.Error as error:
            _log.warning("nothing can be read from %s: %s", path, error)
            return
        # A text that is none must not end the reading.
        old.text_factory = lambda data: data.decode("utf-8", "replace")
        file = self._store.file
        try:
            for name, last_seq in _read(old, "SELECT name, last_seq FROM epoch ORDER BY id"):
                if isinstance(name, str) and isinstance(last_seq, int) and 0 <= last_seq < _MAX_SEQ:
                    file.add_epoch(name, last_seq)
            for (value,) in _read(old, "SELECT value FROM meta WHERE name = 'readings_appended'"):
                if str(value).isdigit():
                    file.memory.readings_appended = max(file.memory.readings_appended, int(value))
            for name, value in _read(old, "SELECT name, value FROM meta WHERE name LIKE '%_incarnation'"):
                # Without them a restored store would go unnoticed.
                if isinstance(name, str) and isinstance(value, str) and _INCARNATION.fullmatch(value) and not older:
                    file.set_meta(name, value)
            for order in ("ASC", "DESC"):
                # From both ends: a damaged page in the middle stops a scan.
                for row in _read(old, _ROWS.format(order=order)):
                    self._carry(row, older=older)
        finally:
            old.close()

    def _carry(self, row: Sequence[Any], *, older: bool) -> None:
        found = _identity(row)
        if found is None or found in self._seen:
            return
        epoch, seq = found
        if row[1] not in set(State):
            # It may have been sent.
            row = (row[0], State.SENT, *row[2:])
        if older:
            if any(first <= seq <= last for first, last in self._declared.get(epoch, ())):
                return
            # It may have been sent since.
            row = (row[0], max(row[1], State.SENT), *row[2:])
        self._seen.add(found)
        if row[0] == Kind.GAP:
            for name, spans in gaps.decode(zlib.decompress(row[8])).dropped.items():
                self._declared.setdefault(name, []).extend(spans)
        self._store.file.insert(self._store.file.add_epoch(epoch, seq), seq, row)
        if len(self._seen) % _ROWS_PER_COMMIT == 0:
            self._store.commit()
            self._store.begin()


def _read(old: sqlite3.Connection, query: str) -> Iterator[Sequence[Any]]:
    """Rows up to the first that can't be read."""
    try:
        yield from old.execute(query)
    except sqlite3.Error as error:
        _log.warning("reading a corrupt buffer: %s", error)


def _identity(row: Sequence[Any]) -> tuple[str, int] | None:
    """Epoch and seq of a row whose message is whole, by the message; None if it is not."""
    kind, _, detail, readings, first_us, last_us, _, expected, packed = row
    sound = (
        kind in set(Kind)
        and isinstance(detail, str)
        and all(isinstance(number, int) for number in (readings, first_us, last_us))
        and isinstance(expected, bytes)
        and isinstance(packed, bytes)
    )
    payload = unpacked(packed, expected) if sound else None
    if payload is None:
        return None
    return identity(kind, detail, payload)
