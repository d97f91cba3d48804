from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.ingest.inbox import Delivery, Inbox


def acknowledged(inbox: Inbox) -> list[int]:
    seen: list[int] = []
    inbox.acknowledge = lambda delivery: seen.append(delivery.mid)
    return seen


def fill(inbox: Inbox, *mids: int, qos: int = 1) -> list[Delivery]:
    for mid in mids:
        assert inbox.put("t", b"", mid, qos)
    return [found for found in (inbox.take(0) for _ in mids) if found is not None]


@given(st.permutations(range(8)))
def test_acknowledgements_are_a_prefix_of_what_came_in_its_order(order: list[int]) -> None:
    inbox = Inbox(100)
    seen = acknowledged(inbox)
    deliveries = fill(inbox, *range(8))
    done: set[int] = set()
    for place in order:
        inbox.done([deliveries[place]])
        done.add(place)
        prefix = next((n for n in range(8) if n not in done), 8)
        assert seen == list(range(prefix))


def test_a_message_of_an_earlier_connection_is_never_acknowledged() -> None:
    inbox = Inbox(100)
    seen = acknowledged(inbox)
    old = fill(inbox, 1, 2)
    inbox.reset()
    new = fill(inbox, 1)
    assert inbox.done(old) == 2
    assert seen == []
    assert inbox.done(new) == 0
    assert seen == [1]


def test_what_waits_when_the_connection_breaks_is_forgotten() -> None:
    inbox = Inbox(100)
    inbox.put("t", b"", 1, 1)
    assert inbox.reset() == 1
    assert inbox.take(0) is None


def test_beyond_its_limit_messages_are_let_go_and_asked_for_when_there_is_room() -> None:
    inbox = Inbox(2)
    asked: list[bool] = []
    inbox.recover = lambda: asked.append(True)
    assert [inbox.put("t", b"", mid, 1) for mid in range(4)] == [True, True, False, False]
    inbox.take(0)
    assert asked == []
    inbox.take(0)
    inbox.take(0)
    assert asked == [True]


def test_it_says_when_the_brokers_window_is_used_up() -> None:
    inbox = Inbox(10, window=2)
    acknowledged(inbox)
    deliveries = fill(inbox, 1, 2)
    assert inbox.exhausted
    inbox.done(deliveries[:1])
    assert not inbox.exhausted


def test_messages_without_acknowledgement_hold_up_no_others() -> None:
    inbox = Inbox(10)
    seen = acknowledged(inbox)
    fill(inbox, 0, qos=0)
    inbox.done(fill(inbox, 1))
    assert seen == [1]


def test_a_closed_inbox_takes_nothing_and_gives_out_what_it_has() -> None:
    inbox = Inbox(10)
    inbox.put("t", b"", 1, 1)
    inbox.close()
    assert not inbox.put("t", b"", 2, 1)
    found = inbox.take(60)
    assert found is not None
    assert found.mid == 1
    assert inbox.take(60) is None


def test_closing_wakes_a_waiting_writer() -> None:
    inbox = Inbox(10)
    thread = threading.Thread(target=inbox.take, args=(200,))
    thread.start()
    inbox.close()
    thread.join(100)
    assert not thread.is_alive()
