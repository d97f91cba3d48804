from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from uuid import UUID

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_ingest.store import ledger
from cloud_ingest.store.ledger import Amendment, Entry, Kind, Outcome, Status
from cloud_ingest.store.pool import Connection
from tests.support.waiting import wait_until

EPOCH = "0123456789abcdef0123456789abcdef"


def entry(seq: int, digest: bytes = b"a", agent_id: int = 1, epoch: str = EPOCH) -> Entry:
    return Entry(agent_id, epoch, seq, Kind.DATA, Status.STORED, digest, readings=5, schema_id=b"s", span_us=(1, 2))


def outcomes(conn: Connection, *entries: Entry) -> list[Outcome]:
    with conn.transaction():
        return [verdict.outcome for verdict in ledger.enter(conn, entries)]


def announced(conn: Connection, epoch: str = EPOCH) -> tuple[int, tuple[tuple[int, int], ...]]:
    with conn.transaction():
        state = ledger.fold(conn, [(1, epoch)])[1, epoch]
    return state.through, state.ranges


def test_a_message_enters_once(conn: Connection) -> None:
    assert outcomes(conn, entry(2), entry(1)) == [Outcome.NEW, Outcome.NEW]
    assert outcomes(conn, entry(1), entry(3), entry(2)) == [Outcome.DUPLICATE, Outcome.NEW, Outcome.DUPLICATE]
    assert conn.execute("SELECT seq FROM ledger ORDER BY seq").fetchall() == [(1,), (2,), (3,)]


def test_the_same_key_with_another_digest_is_a_conflict(conn: Connection) -> None:
    outcomes(conn, entry(1, b"a"))
    assert outcomes(conn, entry(1, b"b")) == [Outcome.CONFLICT]


def test_one_key_several_times_in_one_flush(conn: Connection) -> None:
    flush = [entry(1, b"a"), entry(1, b"a"), entry(1, b"b"), entry(2, b"x")]
    assert outcomes(conn, *flush) == [Outcome.NEW, Outcome.DUPLICATE, Outcome.CONFLICT, Outcome.NEW]
    again = [entry(1, b"b"), entry(1, b"a"), entry(1, b"b"), entry(1, b"c")]
    assert outcomes(conn, *again) == [Outcome.CONFLICT, Outcome.DUPLICATE, Outcome.CONFLICT, Outcome.CONFLICT]


def test_watermark_and_ranges_cover_exactly_what_is_committed(conn: Connection) -> None:
    outcomes(conn, *(entry(seq) for seq in (1, 2, 3, 5, 6, 9)))
    assert announced(conn) == (3, ((5, 6), (9, 9)))
    outcomes(conn, entry(4))
    assert announced(conn) == (6, ((9, 9),))


def test_an_uncommitted_row_is_not_announced(connect: Callable[[], Connection]) -> None:
    busy, other = connect(), connect()
    outcomes(other, entry(1))
    with busy.transaction():
        ledger.enter(busy, [entry(2)])
        assert announced(other) == (1, ())
    assert announced(other) == (2, ())


def test_the_position_grows_with_every_change_and_only_then(conn: Connection) -> None:
    positions = []
    for seq in (1, 1, 2, 7):
        outcomes(conn, entry(seq))
        with conn.transaction():
            positions.append(ledger.fold(conn, [(1, EPOCH)])[1, EPOCH].position)
    assert positions == [1, 1, 2, 3]


def test_dropped_seqs_count_as_settled_and_are_refused(conn: Connection) -> None:
    outcomes(conn, entry(1), entry(5))
    with conn.transaction():
        ledger.amend(conn, [Amendment(1, EPOCH, dropped=[(2, 3)]), Amendment(1, EPOCH, dropped=[(4, 4)])])
    assert announced(conn) == (5, ())
    assert outcomes(conn, entry(3), entry(6)) == [Outcome.DROPPED, Outcome.NEW]
    assert conn.execute("SELECT count(*) FROM ledger WHERE seq = 3").fetchone() == (0,)


def test_a_disputed_seq_is_never_announced_again(conn: Connection) -> None:
    outcomes(conn, *(entry(seq) for seq in (1, 2, 3)))
    assert announced(conn) == (3, ())
    with conn.transaction():
        ledger.amend(conn, [Amendment(1, EPOCH, disputed=[2])])
    assert announced(conn) == (1, ((3, 3),))


def remove_folded_rows(conn: Connection) -> None:
    """What the pruning of old ledger rows will do: the ranges know them."""
    conn.execute("DELETE FROM ledger WHERE folded")


def test_a_duplicate_of_a_row_that_was_folded_and_removed_is_known(conn: Connection) -> None:
    outcomes(conn, entry(1), entry(2))
    announced(conn)
    remove_folded_rows(conn)
    assert outcomes(conn, entry(2), entry(3)) == [Outcome.DUPLICATE, Outcome.NEW]
    assert conn.execute("SELECT seq FROM ledger").fetchall() == [(3,)]
    assert announced(conn) == (3, ())


def test_a_duplicate_that_waited_while_the_row_was_folded_and_removed_does_not_get_in(
    connect: Callable[[], Connection],
) -> None:
    folder, late, watcher = connect(), connect(), connect()
    outcomes(folder, entry(1))
    found: list[Outcome] = []
    with folder.transaction():
        # Fold and remove in one transaction: the row is locked, and the duplicate waits for its end.
        ledger.fold(folder, [(1, EPOCH)])
        remove_folded_rows(folder)
        thread = threading.Thread(target=lambda: found.extend(outcomes(late, entry(1))))
        thread.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        wait_until(
            lambda: watcher.execute(waiting, (late.info.backend_pid,)).fetchone() == (1,) or bool(found),
            "the duplicate waits",
        )
        waited = not found
    thread.join()
    assert waited
    assert found == [Outcome.DUPLICATE]
    assert watcher.execute("SELECT count(*) FROM ledger").fetchone() == (0,)


def test_writers_with_the_same_keys_in_other_orders_never_deadlock_and_each_key_enters_once(
    connect: Callable[[], Connection],
) -> None:
    epochs = [uuid.UUID(int=n).hex for n in range(3)]
    keys = [(epoch, seq) for epoch in epochs for seq in range(1, 31)]
    new: list[tuple[str, int]] = []
    failures: list[psycopg.Error] = []
    lock = threading.Lock()

    def write(conn: Connection, number: int) -> None:
        mine = keys[::-1] if number % 2 else keys
        mine = mine[number * 10 :] + mine[: number * 10]
        try:
            for start in range(0, len(mine), 15):
                entries = [entry(seq, epoch=epoch) for epoch, seq in mine[start : start + 15]]
                with conn.transaction():
                    verdicts = ledger.enter(conn, entries)
                with lock:
                    new.extend(
                        (e.epoch, e.seq) for e, v in zip(entries, verdicts, strict=True) if v.outcome is Outcome.NEW
                    )
                with conn.transaction():
                    ledger.fold(conn, {(1, e.epoch) for e in entries})
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(connect(), number)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(new) == sorted(keys)
    conn = connect()
    assert {announced(conn, epoch) for epoch in epochs} == {(30, ())}


def test_folding_leaves_out_rows_that_another_transaction_holds(connect: Callable[[], Connection]) -> None:
    holder, other = connect(), connect()
    outcomes(other, entry(1), entry(2))
    with holder.transaction():
        holder.execute("SELECT FROM ledger WHERE seq = 2 FOR UPDATE")
        assert announced(other) == (1, ())
    assert announced(other) == (2, ())


def test_epochs_with_unfolded_rows_are_found(conn: Connection) -> None:
    outcomes(conn, entry(1), entry(1, epoch=UUID(int=7).hex))
    announced(conn)
    assert ledger.unfolded(conn) == [(1, UUID(int=7).hex)]


def test_an_unknown_epoch_has_no_state(conn: Connection) -> None:
    assert ledger.states(conn, [(1, EPOCH)]) == {}


def test_states_of_any_history_say_what_the_sets_say(plain_database_dsn: str) -> None:
    from cloud_ingest.store import pool
    from cloud_ingest.store.migrate import migrate

    with pool.connect(plain_database_dsn, "test", autocommit=True) as conn:
        migrate(conn)

        @settings(max_examples=40, deadline=None)
        @given(
            st.lists(
                st.tuples(st.sampled_from(["enter", "drop", "dispute", "fold", "remove"]), st.integers(1, 12)),
                max_size=40,
            )
        )
        def run(steps: list[tuple[str, int]]) -> None:
            epoch = uuid.uuid4().hex
            entered: set[int] = set()
            dropped: set[int] = set()
            disputed: set[int] = set()
            for step, seq in steps:
                if step == "enter":
                    (outcome,) = outcomes(conn, entry(seq, epoch=epoch))
                    if seq in entered:
                        assert outcome in (Outcome.DUPLICATE, Outcome.DROPPED)
                    else:
                        assert outcome is (Outcome.DROPPED if seq in dropped else Outcome.NEW)
                        entered |= set() if seq in dropped else {seq}
                elif step == "drop":
                    dropped.add(seq)
                    with conn.transaction():
                        ledger.amend(conn, [Amendment(1, epoch, dropped=[(seq, seq)])])
                elif step == "dispute":
                    disputed.add(seq)
                    with conn.transaction():
                        ledger.amend(conn, [Amendment(1, epoch, disputed=[seq])])
                elif step == "fold":
                    with conn.transaction():
                        ledger.fold(conn, [(1, epoch)])
                else:
                    remove_folded_rows(conn)
            with conn.transaction():
                state = ledger.fold(conn, [(1, epoch)])[1, epoch]
            expected = (entered | dropped) - disputed
            assert {seq for seq in range(1, 15) if state.covers(seq)} == expected

        run()
