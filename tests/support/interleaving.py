"""Runs several courses of SQL statements, each on a connection of its own, in every order there is.

A course waits for a permit before each statement and each commit. One statement is let go at a time; it has either
ended or waits for a lock (as ``pg_locks`` says) before the next is chosen. So a schedule is a list of choices, the same
choices give the same course of events, and all schedules are walked through like the leaves of a tree.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from cloud_ingest.store.pool import Connection

_WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)"
_DEADLINE_POLLS = 30_000
"""Looks, a millisecond or more apart, at a statement that neither ends nor waits for a lock."""


class Gated:
    """A connection whose statements and commits wait for their turn; has what the store's functions use."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self.permits = threading.Semaphore(0)
        self.idle = threading.Event()

    def turn(self) -> None:
        """Wait until the schedule lets this course go on."""
        self.idle.set()
        self.permits.acquire()

    def execute(self, query: Any, parameters: Any = None) -> Any:
        """As in psycopg, in turn."""
        self.turn()
        return self._conn.execute(query, parameters)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """As in psycopg; the commit is a step of its own."""
        with self._conn.transaction():
            yield
            self.turn()


Course = Callable[[Connection], None]
"""Does its work through the connection it is given."""


class _Running:
    def __init__(self, conn: Connection, course: Course) -> None:
        self.gate = Gated(conn)
        self.pid = conn.info.backend_pid
        self.ended = False
        self.error: BaseException | None = None
        self.waited = False
        self._course = course
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._course(cast("Connection", self.gate))
        except BaseException as error:  # noqa: BLE001 (handed to the schedule)
            self.error = error
        self.ended = True
        self.gate.idle.set()

    def settle(self, watcher: Connection) -> bool:
        """Wait until it is idle or waits for a lock; whether it is idle."""
        for _ in range(_DEADLINE_POLLS):
            if self.gate.idle.wait(0.001):
                return True
            if watcher.execute(_WAITS, (self.pid,)).fetchone() == (True,):
                # It may have been let go between the two looks.
                if self.gate.idle.is_set():
                    return True
                self.waited = True
                return False
        raise TimeoutError("a statement neither ends nor waits for a lock")

    def step(self, watcher: Connection) -> None:
        """Let it go on by one statement."""
        self.gate.idle.clear()
        self.gate.permits.release()
        self.settle(watcher)


class Schedule:
    """What happened in one schedule.

    Attributes
    ----------
    order
        Number of the course of each step.
    waited
        Whether a statement waited for a lock.
    """

    def __init__(self) -> None:
        self.order: list[int] = []
        self.options: list[tuple[int, int]] = []
        self.waited = False


def run(
    courses: Sequence[Course], conns: Sequence[Connection], watcher: Connection, choose: Callable[[int], int]
) -> Schedule:
    """Run courses to their end; `choose` picks one of so many that can go on.

    Raises
    ------
    BaseException
        Whatever a course raised.
    """
    schedule = Schedule()
    running = [_Running(conn, course) for conn, course in zip(conns, courses, strict=True)]
    while True:
        ready = [n for n, course in enumerate(running) if course.settle(watcher) and not course.ended]
        if not ready:
            if all(course.ended for course in running):
                break
            # All that have not ended wait: the database finds the deadlock, and a course raises.
            for course in running:
                course.gate.idle.wait(5)
            continue
        choice = choose(len(ready))
        schedule.options.append((choice, len(ready)))
        schedule.order.append(ready[choice])
        running[ready[choice]].step(watcher)
    for course in running:
        course.thread.join()
        schedule.waited |= course.waited
        if course.error is not None:
            course.error.add_note(f"in the schedule {schedule.order}")
            raise course.error
    return schedule


def every(make: Callable[[], Sequence[Course]], conns: Sequence[Connection], watcher: Connection) -> Iterator[Schedule]:
    """Run fresh courses in every order there is, one schedule after the other."""
    prefix: list[int] = []
    while True:
        ahead = iter(prefix)
        schedule = run(make(), conns, watcher, lambda _, ahead=ahead: next(ahead, 0))  # type: ignore[misc]
        yield schedule
        tree = list(schedule.options)
        while tree and tree[-1][0] == tree[-1][1] - 1:
            tree.pop()
        if not tree:
            return
        prefix = [choice for choice, _ in tree[:-1]] + [tree[-1][0] + 1]
