from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cloud_ingest.store import feed
from cloud_ingest.store.feed import Addition
from cloud_ingest.store.pool import Connection


def append(conn: Connection, n: int) -> None:
    feed.append(conn, 1, "live", [n], n, n + 1)


def read_all(conn: Connection, follower: str, limit: int = 1000) -> list[int]:
    seen: list[int] = []
    while True:
        with conn.transaction():
            changes = feed.read(conn, follower, limit)
            if not changes:
                return seen
            feed.advance(conn, follower, changes[-1])
        seen += [change.points[0] for change in changes]


def test_a_slow_older_transaction_holds_back_the_reader_and_nothing_is_skipped(
    connect: Callable[[], Connection],
) -> None:
    slow, fast, reader = connect(), connect(), connect()
    feed.follow(reader, "settle")
    with slow.transaction():
        append(slow, 1)
        append(fast, 2)
        assert read_all(reader, "settle") == []
        assert [holder.application for holder in feed.holders(reader)] == ["test"]
        (lag,) = feed.lag(reader)
        # The row of the running transaction can't be seen at all yet.
        assert (lag.follower, lag.rows, lag.held_rows) == ("settle", 1, 1)
    assert read_all(reader, "settle") == [1, 2]
    assert feed.lag(reader)[0].rows == 0


def test_an_older_transaction_that_commits_last_is_still_read_once(connect: Callable[[], Connection]) -> None:
    first, second, reader = connect(), connect(), connect()
    feed.follow(reader, "settle")
    seen: list[int] = []
    for n in range(0, 20, 2):
        with first.transaction():
            append(first, n)
            append(second, n + 1)
            seen += read_all(reader, "settle", limit=1)
    seen += read_all(reader, "settle", limit=3)
    assert sorted(seen) == list(range(20))


def test_a_cursor_that_is_not_advanced_reads_the_same_again(conn: Connection) -> None:
    feed.follow(conn, "settle")
    append(conn, 5)
    for _ in range(2):
        with conn.transaction():
            assert [change.points for change in feed.read(conn, "settle")] == [(5,)]


def test_rows_appended_by_copy_read_back_the_same(conn: Connection) -> None:
    points = np.array([3, 2**31 - 1, 7], np.int32)
    with conn.transaction():
        feed.append_all(conn, [Addition(4, "replay", points, 1_655_000_000_000_001, 1_655_000_000_000_002, 9)])
    feed.follow(conn, "settle")
    with conn.transaction():
        (change,) = feed.read(conn, "settle")
    assert (change.tenant_id, change.cause, change.points) == (4, "replay", (3, 2**31 - 1, 7))
    assert (change.first_us, change.last_us, change.batch_id) == (1_655_000_000_000_001, 1_655_000_000_000_002, 9)


def test_rows_stay_until_every_follower_has_passed_them(conn: Connection) -> None:
    append(conn, 1)
    assert feed.prune(conn, 0) == (0, False)
    feed.follow(conn, "fast")
    feed.follow(conn, "slow")
    append(conn, 2)
    assert read_all(conn, "fast") == [1, 2]
    assert feed.prune(conn, 0) == (0, False)
    with conn.transaction():
        changes = feed.read(conn, "slow")
        feed.advance(conn, "slow", changes[0])
    assert feed.prune(conn, 3600) == (0, False)
    assert feed.prune(conn, 0) == (1, False)
    assert read_all(conn, "slow") == [2]


def test_after_a_restore_each_follower_reads_exactly_what_it_had_not_read(conn: Connection) -> None:
    for n in range(6):
        append(conn, n)
    for follower, passed in (("none", 0), ("some", 4), ("all", 6)):
        feed.follow(conn, follower)
        with conn.transaction():
            changes = feed.read(conn, follower)
            if passed:
                feed.advance(conn, follower, changes[passed - 1])
    # As in a database loaded into another cluster, whose transactions have lower numbers.
    conn.execute("UPDATE change_feed SET xid = (xid::text::bigint + 1000000000)::text::xid8")
    conn.execute("UPDATE feed_follower SET xid = (xid::text::bigint + 1000000000)::text::xid8 WHERE xid > '0'")
    for _ in range(2):
        with conn.transaction():
            feed.restart(conn)
    append(conn, 6)
    assert read_all(conn, "none") == [0, 1, 2, 3, 4, 5, 6]
    assert read_all(conn, "some") == [4, 5, 6]
    assert read_all(conn, "all") == [6]


def test_two_processes_with_one_name_take_turns(connect: Callable[[], Connection]) -> None:
    one, other = connect(), connect()
    feed.follow(one, "settle")
    append(one, 1)
    with one.transaction():
        changes = feed.read(one, "settle")
        other.execute("SET lock_timeout = '100ms'")
        held = False
        try:
            with other.transaction():
                feed.read(other, "settle")
        except Exception as error:  # noqa: BLE001
            held = "lock timeout" in str(error)
        assert held
        feed.advance(one, "settle", changes[-1])
    with other.transaction():
        assert feed.read(other, "settle") == []
