"""Folding, removal and duplicates at once: every order of their statements, and no message gets in twice."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator

import pytest

from cloud_ingest.errors import ContentionError
from cloud_ingest.store import ledger
from cloud_ingest.store.ledger import Entry, Kind, Outcome, Status
from cloud_ingest.store.pool import Connection
from tests.support import interleaving
from tests.support.interleaving import Course


class Message:
    """One message in an epoch of its own, and what the courses learnt of it."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.epoch = uuid.uuid4().hex
        self.entry = Entry(1, self.epoch, 1, Kind.DATA, Status.STORED, b"d", readings=1)
        self.outcomes: list[Outcome] = []
        self.announced: list[int] = []
        self.stored_when_announced: list[bool] = []
        self.known = False

    def store(self) -> None:
        """Outside any schedule."""
        with self.conn.transaction():
            ledger.enter(self.conn, [self.entry])
        self.known = True

    def write(self, conn: Connection) -> None:
        """What a writer does, tried again as a writer does."""
        while True:
            try:
                with conn.transaction():
                    (verdict,) = ledger.enter(conn, [self.entry])
            except ContentionError:
                continue
            break
        self.outcomes.append(verdict.outcome)
        self.known = True

    def announce(self, conn: Connection) -> None:
        """What the announcer does."""
        with conn.transaction():
            states = ledger.fold(conn, [(1, self.epoch)])
        self.announced.append(states[1, self.epoch].through)
        self.stored_when_announced.append(self.known)

    def remove(self, conn: Connection) -> None:
        """What the replayer's regular duty does."""
        ledger.remove_folded(conn, 0)

    def announce_and_remove(self, conn: Connection) -> None:
        """As if all were done by one transaction, the worst case."""
        with conn.transaction():
            ledger.fold(conn, [(1, self.epoch)])
            ledger.remove_folded(conn, 0)

    def check(self, new: int) -> None:
        assert self.outcomes.count(Outcome.NEW) == new
        assert set(self.outcomes) <= {Outcome.NEW, Outcome.DUPLICATE}
        for through, stored in zip(self.announced, self.stored_when_announced, strict=True):
            assert stored or not through
        with self.conn.transaction():
            state = ledger.fold(self.conn, [(1, self.epoch)])[1, self.epoch]
        assert (state.through, state.ranges) == (1, ())


@pytest.fixture
def conns(connect: Callable[[], Connection]) -> list[Connection]:
    return [connect() for _ in range(5)]


def walk(
    conns: list[Connection], courses: Callable[[Message], list[Course]], *, stored: bool
) -> Iterator[interleaving.Schedule]:
    message: Message | None = None
    number = len(courses(Message(conns[0])))

    def fresh() -> list[Course]:
        nonlocal message
        # Rows of former schedules would be one more thing to remove.
        conns[0].execute("DELETE FROM ledger")
        message = Message(conns[0])
        if stored:
            message.store()
        return courses(message)

    for schedule in interleaving.every(fresh, conns[2 : 2 + number], conns[1]):
        assert message is not None
        try:
            message.check(0 if stored else 1)
        except AssertionError as error:
            error.add_note(f"in the schedule {schedule.order}")
            raise
        yield schedule


PAIRS: dict[str, tuple[Callable[[Message], list[Course]], bool]] = {
    "fold, duplicate": (lambda m: [m.announce, m.write], True),
    "fold, first": (lambda m: [m.announce, m.write], False),
    "fold, fold": (lambda m: [m.announce, m.announce], True),
    "two at once": (lambda m: [m.write, m.write], False),
    "fold and remove in one, duplicate": (lambda m: [m.announce_and_remove, m.write], True),
    "fold and remove in one, first": (lambda m: [m.announce_and_remove, m.write], False),
}


def test_whatever_the_order_of_statements_a_message_enters_once(conns: list[Connection]) -> None:
    for pair, (courses, stored) in PAIRS.items():
        schedules = list(walk(conns, courses, stored=stored))
        orders = {tuple(schedule.order) for schedule in schedules}
        assert len(orders) == len(schedules) > 5, pair
        assert {order[0] for order in orders} == {order[-1] for order in orders} == {0, 1}, pair
        # Where nothing ever waits, the interesting orders did not happen.
        assert any(schedule.waited for schedule in schedules) is (stored or pair == "two at once"), pair


def test_removal_between_the_statements_of_a_duplicate_lets_nothing_in(conns: list[Connection]) -> None:
    def folded(message: Message) -> list[Course]:
        def remove(conn: Connection) -> None:
            with conn.transaction():
                message.remove(conn)

        if message.known:
            message.announce(message.conn)
        return [remove, message.write]

    schedules = list(walk(conns, folded, stored=True))
    assert len(schedules) > 4
    assert any(schedule.waited for schedule in schedules)


def test_three_duplicates_folding_and_removal_in_random_orders(conns: list[Connection]) -> None:
    chance = random.Random(4)
    orders = set()
    for _ in range(40):
        conns[0].execute("DELETE FROM ledger")
        message = Message(conns[0])
        courses = [message.write, message.write, message.announce_and_remove]
        schedule = interleaving.run(courses, conns[2:], conns[1], chance.randrange)
        orders.add(tuple(schedule.order))
        message.check(1)
    assert len(orders) > 30
