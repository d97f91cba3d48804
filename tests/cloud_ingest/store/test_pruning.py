"""Removal of what is no longer needed: bounded, and never of what somebody still needs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cloud_ingest.ingest.config import IngestConfig
from cloud_ingest.ingest.replay import Replayer
from cloud_ingest.ingest.write import Flush
from cloud_ingest.signals import Signals
from cloud_ingest.store import feed, ledger
from cloud_ingest.store.ledger import Entry, Kind, Outcome, Status
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.status import status
from tests.support.waiting import wait_until

EPOCH = "0123456789abcdef0123456789abcdef"


def enter(conn: Connection, *seqs: int, state: Status = Status.STORED) -> list[Outcome]:
    entries = [Entry(1, EPOCH, seq, Kind.DATA, state, b"d", readings=5) for seq in seqs]
    with conn.transaction():
        return [verdict.outcome for verdict in ledger.enter(conn, entries)]


def fold(conn: Connection) -> None:
    with conn.transaction():
        ledger.fold(conn, [(1, EPOCH)])


def seqs(conn: Connection) -> list[int]:
    return [seq for (seq,) in conn.execute("SELECT seq FROM ledger ORDER BY seq").fetchall()]


def feed_rows(conn: Connection) -> list[int]:
    return [points[0] for (points,) in conn.execute("SELECT points FROM change_feed ORDER BY xid, id").fetchall()]


def test_only_folded_stored_and_old_rows_go(conn: Connection) -> None:
    enter(conn, 1, 2)
    enter(conn, 3, state=Status.PARKED)
    enter(conn, 4, state=Status.DEAD)
    fold(conn)
    enter(conn, 5)
    assert ledger.remove_folded(conn, 3600) == (0, 0)
    assert ledger.remove_folded(conn, 0) == (2, 0)
    assert seqs(conn) == [3, 4, 5]


def test_what_was_removed_is_still_counted_and_still_known(conn: Connection) -> None:
    enter(conn, 1, 2)
    fold(conn)
    ledger.remove_folded(conn, 0)
    enter(conn, 3)
    assert status(conn)["ledger"] == {"stored": 3, "parked": 0, "dead": 0, "readings": 15}
    assert enter(conn, 1, 2, 4) == [Outcome.DUPLICATE, Outcome.DUPLICATE, Outcome.NEW]
    assert seqs(conn) == [3, 4]


def test_a_round_is_bounded_and_the_next_one_goes_on(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "REMOVED_AT_ONCE", 3)
    monkeypatch.setattr(ledger, "REMOVAL_STATEMENTS", 2)
    enter(conn, *range(1, 6), state=Status.PARKED)
    enter(conn, *range(6, 15))
    fold(conn)
    rounds, after = [], 0
    while True:
        removed, after = ledger.remove_folded(conn, 0, after)
        rounds.append(removed)
        if not after:
            break
    # The first looks at five rows that stay and one that goes.
    assert rounds == [1, 6, 2]
    assert seqs(conn) == list(range(1, 6))


def test_new_rows_end_a_round(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "REMOVED_AT_ONCE", 3)
    enter(conn, *range(1, 20))
    fold(conn)
    conn.execute("UPDATE ledger SET received_at = received_at - interval '2 hours' WHERE seq <= 7")
    assert ledger.remove_folded(conn, 3600) == (7, 0)


def test_two_workers_that_remove_at_once_count_each_row_once(connect: Callable[[], Connection]) -> None:
    one, other = connect(), connect()
    enter(one, *range(1, 11))
    fold(one)
    with one.transaction():
        one.execute("SELECT FROM ledger WHERE seq <= 4 FOR UPDATE")
        assert ledger.remove_folded(other, 0) == (6, 0)
    assert ledger.remove_folded(other, 0) == (4, 0)
    assert other.execute("SELECT messages, readings FROM ledger_removed").fetchone() == (10, 50)


def test_the_feed_is_pruned_below_the_slowest_follower_in_bounded_rounds(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "PRUNED_AT_ONCE", 2)
    monkeypatch.setattr(feed, "PRUNING_STATEMENTS", 2)
    for n in range(1, 11):
        feed.append(conn, 1, "live", [n], n, n)
    for follower, passed in (("fast", 10), ("slow", 7)):
        feed.follow(conn, follower)
        with conn.transaction():
            feed.advance(conn, follower, feed.read(conn, follower)[passed - 1])
    assert feed.prune(conn, 0) == (4, True)
    assert feed.prune(conn, 0) == (3, False)
    assert feed_rows(conn) == [8, 9, 10]


def test_the_regular_duties_remove_what_is_old(conn: Connection, connect: Callable[[], Connection]) -> None:
    enter(conn, 1, 2)
    fold(conn)
    feed.append(conn, 1, "live", [1], 1, 1)
    feed.follow(conn, "settle")
    with conn.transaction():
        feed.advance(conn, "settle", feed.read(conn, "settle")[0])

    def connected() -> tuple[Connection, Flush]:
        mine = connect()
        return mine, Flush(mine, 7, 600.0, Signals())

    config = IngestConfig(sweep_s=0.05, feed_keep_s=0, ledger_keep_s=0)
    replayer = Replayer(connected, config, Signals(), lambda epochs: None)
    thread = threading.Thread(target=replayer.run)
    thread.start()
    try:
        wait_until(lambda: not seqs(conn) and not feed_rows(conn), "ledger and feed are empty")
    finally:
        replayer.stop()
        thread.join()
