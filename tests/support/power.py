"""A disk that forgets at a power cut what was not synced, for databases that SQLite writes.

A VFS below SQLite passes every write on to a real file, which so plays the part of the operating system's
cache, and remembers what of it was synced. At a power cut each sector of each write after the last sync of its
file is there or not, in any combination, and so is each truncation; names in the directory are as at its last
sync, or as they were at the cut. What a process does after the cut goes to files that nobody sees again.

The SQLite of apsw runs on it, since only that one lets a VFS be written in Python; `Connection` is that
much of `sqlite3.Connection` as the buffer uses.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import apsw

SECTOR_BYTES = 512
_AUTOCHECKPOINT = "PRAGMA wal_autocheckpoint = "
T = TypeVar("T")
_NUMBERS = count(1)
_Operation = tuple[int, bytes | None]
"""A write at an offset, or, without data, a truncation to it."""


class _Node:
    """A file: what of it is on the disk, and what was done to it since."""

    def __init__(self, content: bytes, inode: int) -> None:
        self.inode = inode
        self.synced = bytearray(content)
        self.pending: list[_Operation] = []

    def sync(self) -> None:
        for offset, data in self.pending:
            _apply(self.synced, offset, data)
        self.pending.clear()

    def after_cut(self, survives: Callable[[], bool]) -> bytes:
        content = bytearray(self.synced)
        for offset, data in self.pending:
            for piece in _sectors(offset, data):
                if survives():
                    _apply(content, *piece)
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _sectors(offset: int, data: bytes | None) -> Iterator[_Operation]:
    if data is None:
        yield offset, None
        return
    start = 0
    while start < len(data):
        end = min(len(data), start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES)
        yield offset + start, data[start:end]
        start = end


class Disk(apsw.VFS):
    """The files of one directory, on a disk that can be cut off.

    Parameters
    ----------
    directory
        Where the databases are.
    """

    def __init__(self, directory: Path) -> None:
        self.name = f"power-{next(_NUMBERS)}"
        super().__init__(self.name, "", maxpathname=1024)
        self.directory = directory
        self.ignore_syncs = False
        """A disk, or a setting, that confirms what it has not written."""
        self.room: int | None = None
        """How much files may still grow [B]; None: without limit."""
        self.refuse_after: int | None = None
        """So many writes and syncs, and all fail; None: they don't."""
        self.refuse_syncs = False
        """Whether syncs fail."""
        self.refusals: int | None = None
        """So many failures for one of these reasons, and it is gone; None: it stays."""
        self._names: dict[str, _Node] = {}
        self._synced_names: dict[str, _Node] = {}
        self._cut_in: int | None = None
        self._random = random.Random(0)
        self._share = 0.5
        self._image: dict[str, bytes] | None = None

    # What a test does

    def connect(self, path: Path) -> sqlite3.Connection:
        """Open a database; for `open_database`."""
        return Connection(apsw.Connection(os.fspath(path), vfs=self.name))  # type: ignore[return-value]

    def cut_after(self, operations: int, seed: int, share: float) -> None:
        """Cut the power after so many writes and syncs; of what is unsynced then, a share survives."""
        self._random = random.Random(seed)
        self._share = share
        self._cut_in = operations
        self._count()

    @property
    def is_cut(self) -> bool:
        """Whether the power was cut."""
        return self._image is not None

    def cut(self, seed: int = 0, share: float = 0.5) -> None:
        """Cut the power now, unless it is."""
        if self._image is None:
            self.cut_after(0, seed, share)

    def kill(self) -> None:
        """Let the process die and the machine go on: everything written is there."""
        self.cut(share=1.0)

    def power_on(self) -> None:
        """Make the directory what the cut has left; nothing may be open any more."""
        assert self._image is not None
        for entry in list(self._entries()):
            if not entry.name.endswith(".lock"):
                Path(entry.path).unlink()
        self._names = {}
        for name, content in self._image.items():
            if not name.endswith("-shm"):
                path = self.directory / name
                path.write_bytes(content)
                self._names[name] = _Node(content, path.stat().st_ino)
        self._synced_names = dict(self._names)
        self._image = None
        self._cut_in = None
        self.works()

    def fsync(self, descriptor: int) -> None:
        """In the place of `os.fsync`: the directory's names are on the disk."""
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) and not self.ignore_syncs:
            self._look()
            self._synced_names = dict(self._names)

    # What SQLite does

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        """Open a file."""
        self._look()
        file = _File(self, name, flags)
        if file.path is not None:
            self._look()
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Delete a file."""
        super().xDelete(filename, syncdir)
        self._names.pop(Path(filename).name, None)
        if syncdir and not self.ignore_syncs:
            self._synced_names.pop(Path(filename).name, None)

    # What the disk does

    def written(self, path: Path, offset: int, data: bytes | None) -> None:
        """A file was changed."""
        self._names[path.name].pending.append((offset, data))
        self._count()

    def synced(self, path: Path, *, names_it: bool) -> None:
        """A file was synced, and its name too where SQLite syncs the directory then."""
        if not self.ignore_syncs:
            self._names[path.name].sync()
            if names_it:
                self._synced_names[path.name] = self._names[path.name]
        self._count()

    def ask(self, grows: int = 0) -> None:
        """Refuse a write for which there is no room, or anything if the disk does not work."""
        if self.refuse_after is not None:
            if self.refuse_after == 0:
                self._refuse(apsw.SQLITE_IOERR_WRITE)
            self.refuse_after -= 1
        if self.room is not None and grows > 0:
            if grows > self.room:
                self._refuse(apsw.SQLITE_FULL)
            self.room -= grows

    def _refuse(self, code: int) -> None:
        if self.refusals is not None:
            self.refusals -= 1
            if self.refusals == 0:
                self.works()
        raise apsw.exception_for(code)

    def works(self) -> None:
        """There is room, and everything can be written."""
        self.room = self.refuse_after = self.refusals = None

    def _count(self) -> None:
        if self._cut_in is None or self._image is not None:
            return
        if self._cut_in > 0:
            self._cut_in -= 1
            return
        self._look()
        names = self._names if self._random.random() < self._share else self._synced_names
        self._image = {name: node.after_cut(self._survives) for name, node in names.items()}

    def _survives(self) -> bool:
        return self._random.random() < self._share

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self.directory) as entries:
            yield from entries

    def _look(self) -> None:
        """See what became of the names: files are also renamed and deleted past SQLite."""
        nodes = {node.inode: node for node in self._names.values()}
        found = {}
        for entry in self._entries():
            if entry.name.endswith((".lock", "-shm")):
                continue
            inode = entry.inode()
            # A file that others wrote is taken as it is.
            found[entry.name] = nodes.get(inode) or _Node(Path(entry.path).read_bytes(), inode)
        self._names = found


class _File(apsw.VFSFile):
    """An open file of a `Disk`."""

    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        found = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.path = None if found is None else Path(found)
        self._disk = disk
        self._is_log = bool(flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL))
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        """Write."""
        if self.path is None:
            super().xWrite(data, offset)
            return
        self._disk.ask(offset + len(data) - self.xFileSize())
        super().xWrite(data, offset)
        self._disk.written(self.path, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:
        """Cut off."""
        # SQLite goes on when a log can't be cut, and apsw would tell of it as if the commit had failed.
        if self.path is not None and not self._is_log:
            self._disk.ask()
        super().xTruncate(newsize)
        if self.path is not None:
            self._disk.written(self.path, newsize, None)

    def xSync(self, flags: int) -> None:
        """Bring to the disk."""
        if self.path is not None:
            self._disk.ask()
        if self._disk.refuse_syncs:
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)
        if self.path is not None:
            self._disk.synced(self.path, names_it=self._is_log)


class Connection:
    """A connection of apsw that looks like one of sqlite3."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        connection.set_busy_timeout(5000)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._connection.in_transaction

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Execute a statement."""
        if sql.startswith(_AUTOCHECKPOINT):
            self._checkpoint_at(int(sql.removeprefix(_AUTOCHECKPOINT)))
            sql = "PRAGMA wal_autocheckpoint"
        return _told(lambda: Cursor(self._connection.cursor().execute(sql, tuple(map(_plain, parameters)))))

    def _checkpoint_at(self, most: int) -> None:
        """As SQLite does it, that is: a commit does not fail because the checkpoint after it does."""

        def hook(connection: apsw.Connection, name: str, pages: int) -> int:
            if pages >= most:
                with contextlib.suppress(apsw.Error):
                    connection.wal_checkpoint(name)
            return apsw.SQLITE_OK

        self._connection.set_wal_hook(hook)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> Cursor:
        """Execute a statement for each row."""
        given = [tuple(map(_plain, row)) for row in rows]
        return _told(lambda: Cursor(self._connection.cursor().executemany(sql, given)))

    def close(self) -> None:
        """Close it; as in SQLite, whether or not the last checkpoint can be written."""
        with contextlib.suppress(apsw.FullError, apsw.IOError):
            self._connection.close()


class Cursor:
    """Rows of a statement."""

    def __init__(self, cursor: apsw.Cursor) -> None:
        self._cursor = cursor

    def __iter__(self) -> Iterator[Any]:
        while (row := self.fetchone()) is not None:
            yield row

    def fetchone(self) -> Any:
        """The next row."""
        return _told(self._cursor.fetchone)

    def fetchall(self) -> list[Any]:
        """All that are left."""
        return _told(self._cursor.fetchall)


def _plain(value: Any) -> Any:
    """Apsw knows no subclasses of int."""
    return int(value) if isinstance(value, int) else value


def _told(work: Callable[[], T]) -> T:
    """Do something, with errors as sqlite3 has them."""
    try:
        return work()
    except apsw.Error as error:
        kind = {apsw.CorruptError: sqlite3.DatabaseError, apsw.NotADBError: sqlite3.DatabaseError}.get(
            type(error), sqlite3.OperationalError
        )
        told = kind(str(error))
        # The stubs of apsw leave it out.
        told.sqlite_errorcode = error.extendedresult  # type: ignore[attr-defined]
        raise told from error
