"""When messages are sent again."""

from __future__ import annotations

from edge_agent.publish.flight import Flight


def flight(count: int, *, acknowledged: bool = True) -> Flight:
    made = Flight(10.0)
    for n in range(count):
        made.sent(n, 100 + n, now=0.0)
        if acknowledged:
            assert made.acknowledged(100 + n, now=0.0) == n
    return made


def test_an_acknowledgement_only_puts_off_the_next_attempt() -> None:
    made = Flight(10.0)
    made.sent(1, 101, now=0.0)
    made.acknowledged(101, now=8.0)
    made.heard()
    assert (made.unacknowledged, made.uncommitted) == (0, 1)
    assert made.due(15.0, 10) == []
    assert made.due(18.0, 10) == [1]


def test_what_is_committed_is_never_sent_again() -> None:
    made = flight(3)
    made.heard()
    made.finished([0, 2])
    assert made.due(20.0, 10) == [1]


def test_without_a_word_from_the_store_only_the_oldest_is_sent_again() -> None:
    made = flight(5)
    assert made.due(20.0, 10) == [0]
    assert made.due(25.0, 10) == []
    assert made.due(30.0, 10) == [1]
    made.heard()
    assert made.due(40.0, 2) == [2, 3]


def test_a_message_about_to_be_sent_again_is_not_chosen_twice() -> None:
    made = flight(1)
    made.heard()
    assert made.due(20.0, 10) == [0]
    made.heard()
    assert made.due(40.0, 10) == []
    made.sent(0, 200, now=41.0)
    made.acknowledged(200, now=41.0)
    made.heard()
    assert made.due(70.0, 10) == [0]


def test_delays_double_for_a_message_that_keeps_coming_back() -> None:
    made = flight(1)
    now, delays = 0.0, []
    for attempt in range(6):
        last = now
        made.heard()
        while not made.due(now, 1):
            now += 1.0
        delays.append(now - last)
        made.sent(0, 200 + attempt, now)
        made.acknowledged(200 + attempt, now)
    assert delays == [10, 20, 40, 80, 80, 80]


def test_after_an_answer_to_the_session_what_went_before_goes_again_soon() -> None:
    made = flight(2)
    made.answered(now=1.0)
    made.sent(7, 107, now=1.5)
    made.acknowledged(107, now=1.5)
    assert made.due(2.0, 10) == []
    assert made.due(4.0, 10) == [0, 1]


def test_a_message_without_any_answer_is_noticed() -> None:
    made = flight(1, acknowledged=False)
    assert not made.stuck(9.0)
    assert made.stuck(11.0)
    assert made.due(11.0, 10) == []
    made.acknowledged(100, now=11.0)
    assert not made.stuck(30.0)


def test_an_unknown_acknowledgement_is_nobodys() -> None:
    assert flight(1).acknowledged(999, now=1.0) is None
