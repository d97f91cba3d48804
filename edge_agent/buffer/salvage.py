"""A corrupt buffer file: what is readable is carried over to a new one, the old one is kept under another name.

The new file is built beside the corrupt one and takes its place only when it is complete, so a crash in
between loses nothing that was readable: the next start finds either the corrupt file again, or the finished
new one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_agent.buffer.records import Kind, State
from edge_agent.buffer.store import Store, unpacked
from protocols import birth as births
from protocols import gap as gaps
from protocols.errors import ProtocolError
from protocols.payload import registry

_log = logging.getLogger(__name__)
_SUFFIXES = ("", "-wal", "-shm")
_ROWS_PER_COMMIT = 500
_ROWS = (
    "SELECT kind, state, detail, readings, first_us, last_us, committed_us, digest, payload "
    "FROM record NOT INDEXED ORDER BY id {order}"
)
_MAX_SEQ = 2**62
_INCARNATION = re.compile(r"-?\d+ [0-9a-f]{32}")


def replace(path: Path, make: Callable[[Path], Store]) -> Store:
    """Put a corrupt file aside and open a new one in its place, with what was readable of the old one.

    Parameters
    ----------
    path
        The corrupt file; nobody has it open.
    make
        Opens a new file and writes its birth.
    """
    fresh = _beside(path)
    _remove(fresh)
    store = make(fresh)
    try:
        rows = _carry_over(path, store)
        store.begin()
        store.append_event("buffer_corrupt")
        store.commit()
    finally:
        store.close()
    aside = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}")
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").replace(f"{aside}{suffix}")
    _log.error("buffer %s is corrupt; it is kept as %s, and %d records of it were recovered", path, aside, rows)
    finish(path)
    return make(path)


def finish(path: Path) -> None:
    """Complete a replacement that a crash interrupted after the corrupt file was put aside."""
    fresh = _beside(path)
    if fresh.exists() and not path.exists():
        fresh.replace(path)
        sync_directory(path)


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
    for suffix in _SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _carry_over(path: Path, store: Store) -> int:
    """Copy readable epochs and records; each record's identity is taken from its own, checked message."""
    try:
        old = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        _log.warning("nothing can be read from %s: %s", path, error)
        return 0
    seen: set[tuple[str, int]] = set()
    try:
        store.begin()
        for name, last_seq in _read(old, "SELECT name, last_seq FROM epoch ORDER BY id"):
            if isinstance(name, str) and isinstance(last_seq, int) and 0 <= last_seq < _MAX_SEQ:
                store.add_epoch(name, last_seq)
        appended = [value for (value,) in _read(old, "SELECT value FROM meta WHERE name = 'readings_appended'")]
        if appended and str(appended[0]).isdigit():
            store.carry_appended(int(appended[0]))
        for name, value in _read(old, "SELECT name, value FROM meta WHERE name LIKE '%_incarnation'"):
            # Without them a restored store would go unnoticed.
            if isinstance(name, str) and isinstance(value, str) and _INCARNATION.fullmatch(value):
                store.set_meta(name, value)
        for order in ("ASC", "DESC"):
            # From both ends: a damaged page in the middle stops a scan.
            for row in _read(old, _ROWS.format(order=order)):
                _carry_row(row, store, seen)
        store.commit()
    finally:
        old.close()
    return len(seen)


def _read(old: sqlite3.Connection, query: str) -> Iterator[Sequence[Any]]:
    """Rows up to the first that can't be read."""
    try:
        yield from old.execute(query)
    except sqlite3.Error as error:
        _log.warning("reading a corrupt buffer: %s", error)


def _carry_row(row: Sequence[Any], store: Store, seen: set[tuple[str, int]]) -> None:
    identity = _identity(row)
    if identity is None or identity in seen:
        return
    seen.add(identity)
    epoch, seq = identity
    store.insert(store.add_epoch(epoch, seq), seq, row)
    if len(seen) % _ROWS_PER_COMMIT == 0:
        store.commit()
        store.begin()


def _identity(row: Sequence[Any]) -> tuple[str, int] | None:
    """Epoch and seq of a row whose message is whole; None if it is not."""
    kind, state, detail, readings, first_us, last_us, _, expected, packed = row
    sound = (
        kind in set(Kind)
        and state in set(State)
        and isinstance(detail, str)
        and all(isinstance(number, int) for number in (readings, first_us, last_us))
        and isinstance(expected, bytes)
        and isinstance(packed, bytes)
    )
    payload = unpacked(packed, expected) if sound else None
    if payload is None:
        return None
    try:
        if kind == Kind.DATA:
            return registry.codec(detail).identity(payload)
        key = births.decode(payload).key if kind == Kind.BIRTH else gaps.decode(payload).key
    except ProtocolError:
        return None
    return key.epoch, key.seq
