"""The outbox: every record is on disk before anyone hears of it, and stays there until the store has it.

The fsync contract

- SQLite in WAL mode with ``synchronous=FULL``: a transaction that was committed survives the death of the
  process and a power cut, provided that the disk keeps what it has confirmed. The file's name in its
  directory is synced when it is made or replaced.
- `append` is done when its future is: before that the readings are in memory only. What is appended while a
  commit is under way is committed together next (group commit), so slow disks make larger groups.
- A record is SENT on disk before it is handed out. So a record that is NEW was never with the broker, in
  this process or an earlier one.

Invariants

- One thread owns the file; everything else asks it through a queue. A result is seen only after the commit.
- At every start, and for every new file, a new epoch begins, and its first record is the birth. So a copy of
  the file, a restored one or an old one never gives two messages one identity.
- One process has the file open, by a lock beside it.
- A corrupt file, found at the start or later, is put aside; a new one goes on with what was readable. So is a
  damaged log, as far as damage can be told from a power cut: see `wal`.
- When the disk is full, room is made as for the size limit; when it can't be written, it is tried again, and
  whoever appends sees that by its future. Nothing is thrown away meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from edge_agent.buffer import salvage, wal
from edge_agent.buffer.file import Owner, connect
from edge_agent.buffer.lock import FileLock
from edge_agent.buffer.records import Applied, Draft, Record, Stats
from edge_agent.buffer.store import Store
from edge_agent.config import Buffer
from edge_agent.errors import EdgeError, OutboxClosedError
from edge_agent.signals import Signals
from protocols.birth import AnySchema
from protocols.committed import Committed
from protocols.errors import ProtocolError
from protocols.payload.registry import DEFAULT_CODEC

_log = logging.getLogger(__name__)
T = TypeVar("T")
_Job = tuple[Callable[[], Any], "Future[Any]"]
_JOBS_PER_COMMIT = 500
_RETRY_S = 1.0
_MISREAD = (TypeError, ValueError, OverflowError)
_SHRINK = 0.9
"""When the disk is full, what the buffer comes down to, as a share of its size then."""


class Outbox:
    """An open outbox.

    Parameters
    ----------
    settings
        Where it is and how large it may be.
    tenant, agent
        Whose it is.
    schema
        Points that drafts refer to; its birth opens every epoch.
    now_us
        Plant time [µs UTC].
    signals
        Where drops and stalls are counted.
    codec
        Of new batches.
    open_database
        Connects to the file.
    holding
        Whether records wait from the beginning; see `hold`.

    Raises
    ------
    OutboxLockedError, OutboxOwnerError
        If another process has the file, or it is another agent's.
    OSError, sqlite3.Error
        If the file can't be made or used.
    """

    def __init__(
        self,
        settings: Buffer,
        tenant: str,
        agent: str,
        schema: AnySchema,
        now_us: Callable[[], int],
        signals: Signals,
        codec: str = DEFAULT_CODEC,
        open_database: Callable[[Path], sqlite3.Connection] = connect,
        holding: bool = False,
    ) -> None:
        self._settings = settings
        self._holding = holding
        self._owner = Owner(tenant, agent)
        self._schema = schema
        self._now_us = now_us
        self._signals = signals
        self._codec = codec
        self._open_database = open_database
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._deliver: Callable[[int, list[Record]], None] | None = None
        self._state = threading.Lock()
        self._closed = False
        self._giving_up = threading.Event()
        self.failure: BaseException | None = None
        settings.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(settings.path)
        try:
            salvage.finish(settings.path)
            self._store = self._open()
        except BaseException:
            self._lock.release()
            raise
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def deliver_to(self, deliver: Callable[[int, list[Record]], None]) -> None:
        """Set what gets handed-out records, with the generation they were granted to; it must not block."""
        self._deliver = deliver

    # What others ask for; each returns at once

    def append(self, draft: Draft) -> Future[None]:
        """Write a batch; on disk when the future is done."""
        return self._submit(lambda: self._store.append(draft))

    def restart(self, generation: int) -> Future[tuple[str, ...]]:
        """Begin handing out anew for a new connection; gives the epochs in the buffer."""
        return self._submit(lambda: self._store.restart(generation))

    def grant(self, generation: int, live: int, backlog: int) -> Future[None]:
        """Let so many more records of each lane be handed out; they are delivered as soon as there are any.

        Records that were in the buffer when the connection began (`restart`), and those that a restored store
        brought back to life, are the backlog; later ones are live. Births come first, on either grant.
        """
        return self._submit(lambda: self._store.grant(generation, live, backlog))

    def load(self, ids: Sequence[int]) -> Future[list[Record]]:
        """Read records again that are still pending."""
        return self._submit(lambda: self._store.load(ids))

    def apply(self, message: Committed, session: str) -> Future[Applied]:
        """Apply what the store says it has."""
        return self._submit(lambda: self._store.apply(message, session))

    def hold(self) -> Future[None]:
        """Hand out nothing of what is appended from now on, until it is released."""

        def work() -> None:
            self._store.hold()
            self._holding = True

        return self._submit(work)

    def release(self, offset_us: int | None) -> Future[bool]:
        """Let go a part of what was held back, in this process or an earlier one; gives whether there is more.

        Parameters
        ----------
        offset_us
            Real time at the zero of the monotonic clock [µs UTC], for times that were wrong to be put right;
            None: it is not known.
        """

        def work() -> bool:
            self._holding = False
            return self._store.release(offset_us)

        return self._submit(work)

    def adopt(self, schema: AnySchema) -> Future[None]:
        """Take drafts of another schema from now on; its birth goes before them."""

        def work() -> None:
            self._store.append_birth(schema)
            self._schema = schema

        return self._submit(work)

    def settle(self, ids: Sequence[int]) -> Future[None]:
        """Mark records as delivered without hearing from the store."""
        return self._submit(lambda: self._store.settle(ids))

    def stats(self) -> Future[Stats]:
        """What the buffer holds."""
        return self._submit(lambda: self._store.stats())

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what was appended and close the file; gives up on a disk that can't be written by then."""
        with self._state:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._thread.join(timeout_s)
        self._giving_up.set()
        self._thread.join()
        self._lock.release()

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        # From here on nobody can cancel it, so that the writer can always tell its result.
        future.set_running_or_notify_cancel()
        with self._state:
            if self._closed or self.failure is not None:
                future.set_exception(self._refusal())
            else:
                self._jobs.put((work, future))
        return future

    def _refusal(self) -> OutboxClosedError:
        reason = f"has failed: {self.failure}" if self.failure is not None else "is closed"
        return OutboxClosedError(f"buffer {self._settings.path} {reason}")

    # The writer's thread

    def _open(self) -> Store:
        path = self._settings.path
        if wal.damaged(path):
            salvage.rebuild(path, self._make)
        try:
            store = self._make(path)
        except (sqlite3.DatabaseError, *_MISREAD) as error:
            if not _is_corrupt(error):
                raise
            salvage.rebuild(path, self._make)
            store = self._make(path)
        salvage.sync_directory(self._settings.path)
        return store

    def _make(self, path: Path, first_id: int = 1) -> Store:
        store = Store(
            path,
            self._owner,
            self._settings,
            self._signals,
            self._now_us,
            self._codec,
            first_id,
            self._open_database,
        )
        try:
            store.begin()
            store.resume_holding()
            if self._holding:
                store.hold()
            store.append_birth(self._schema)
            store.commit()
        except BaseException:
            store.close()
            raise
        return store

    def _run(self) -> None:
        jobs: list[_Job] = []
        try:
            open_ = True
            while open_:
                jobs, open_ = self._take()
                self._transact(jobs)
        except BaseException as error:  # noqa: BLE001 (whatever it is, the agent must stop rather than poll for nobody)
            _log.exception("the buffer's writer has failed")
            with self._state:
                self.failure = error
        finally:
            self._store.close()
            self._refuse(jobs)

    def _take(self) -> tuple[list[_Job], bool]:
        """Wait for a job, and take along what has gathered behind it; says whether more may come."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        with contextlib.suppress(queue.Empty):
            while job is not None:
                jobs.append(job)
                if len(jobs) == _JOBS_PER_COMMIT:
                    break
                job = self._jobs.get_nowait()
        return jobs, job is not None

    def _transact(self, jobs: list[_Job]) -> None:
        """Do the jobs in as few transactions as their size allows; tell the results of each."""
        left = jobs
        while left:
            left = left[self._commit(left) :]

    def _commit(self, jobs: list[_Job]) -> int:
        """Do the first jobs in one transaction, again until it succeeds; says how many are done."""
        misread = False
        while True:
            try:
                results, handed_out = self._attempt(jobs)
                break
            except _MISREAD:
                # Damage that SQLite does not see gives values that can't be. In a new file they are a mistake.
                if misread:
                    raise
                misread = True
                self._replace()
            except sqlite3.DatabaseError as error:
                self._recover(error)
        for (_, future), (result, refusal) in zip(jobs, results, strict=False):
            if refusal is not None:
                future.set_exception(refusal)
            else:
                future.set_result(result)
        if handed_out and self._deliver is not None:
            self._deliver(self._store.generation, handed_out)
        return len(results)

    def _attempt(self, jobs: list[_Job]) -> tuple[list[tuple[Any, Exception | None]], list[Record]]:
        self._store.begin()
        results = []
        for work, _ in jobs:
            results.append(self._do(work))
            if self._store.transaction_is_full:
                break
        handed_out = self._store.hand_out()
        self._store.commit()
        return results, handed_out

    @staticmethod
    def _do(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
        try:
            return work(), None
        except (EdgeError, ProtocolError) as error:
            return None, error

    def _recover(self, error: sqlite3.DatabaseError) -> None:
        """After a failed transaction: make it possible to try again, or raise."""
        if _is_corrupt(error):
            self._replace()
            return
        with contextlib.suppress(sqlite3.Error):
            self._store.rollback()
        self._stalled(error)
        if _primary(error) == sqlite3.SQLITE_FULL and self._shrink():
            return
        self._wait(error)

    def _stalled(self, error: sqlite3.DatabaseError) -> None:
        """Say that the file can't be written now, if that is all; else raise."""
        if _primary(error) not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY):
            raise error
        self._signals.stalls += 1
        _log.error("buffer %s can't be written, trying again: %s", self._settings.path, error)

    def _wait(self, error: sqlite3.DatabaseError) -> None:
        if self._giving_up.wait(_RETRY_S):
            raise error

    def _replace(self) -> None:
        """Go on with a new file, with what is readable of this one."""
        damaged = self._store
        with contextlib.suppress(sqlite3.Error):
            damaged.rollback()
        damaged.close()

        def make(path: Path) -> Store:
            return self._make(path, damaged.next_id)

        rebuilt = False
        while True:
            try:
                if not rebuilt:
                    salvage.rebuild(self._settings.path, make)
                    rebuilt = True
                self._store = make(self._settings.path)
                break
            except sqlite3.DatabaseError as error:
                self._stalled(error)
                self._wait(error)
        self._store.take_over(damaged)
        salvage.sync_directory(self._settings.path)

    def _shrink(self) -> bool:
        """Make room on a full disk, if that can be written."""
        before = self._store.used_bytes
        try:
            self._store.begin()
            self._store.make_room("disk_full", int(before * _SHRINK))
            self._store.commit()
        except sqlite3.DatabaseError as error:
            _log.warning("no room could be made in the buffer: %s", error)
            self._store.rollback()
            return False
        return self._store.used_bytes < before

    def _refuse(self, jobs: list[_Job]) -> None:
        """Fail the jobs that are not done any more."""
        left = [future for _, future in jobs]
        with self._state:
            self._closed = True
            refusal = self._refusal()
            with contextlib.suppress(queue.Empty):
                while True:
                    job = self._jobs.get_nowait()
                    left += [] if job is None else [job[1]]
        for future in left:
            if not future.done():
                future.set_exception(refusal)


def _is_corrupt(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # Python's own: a value could not be read as what it should be.
        return isinstance(error, (sqlite3.OperationalError, *_MISREAD))
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _primary(error: sqlite3.DatabaseError) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
