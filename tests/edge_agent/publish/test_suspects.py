"""Which message makes a broker end the connection."""

from __future__ import annotations

from edge_agent.publish.suspects import REST_S, STRIKES, Suspects


def careful(found: Suspects) -> bool:
    return found.careful


def test_what_was_under_way_at_the_end_of_two_connections_goes_one_by_one() -> None:
    found = Suspects()
    found.lost([1, 2, 3], 0.0)
    assert not careful(found)
    found.lost([2, 3, 4], 0.0)
    assert careful(found)
    assert not any(found.rests(id_, 0.0) for id_ in (1, 2, 3, 4))
    found.cleared([3])
    assert careful(found)
    found.cleared([2])
    assert not careful(found)


def test_what_was_acknowledged_in_between_is_no_suspect() -> None:
    found = Suspects()
    found.lost([1, 2], 0.0)
    found.cleared([1, 2])
    found.lost([1, 2], 0.0)
    assert not careful(found)


def test_a_message_that_is_alone_at_the_end_of_three_connections_rests_for_a_while() -> None:
    found = Suspects()
    for n in range(STRIKES):
        assert not found.rests(2, n)
        found.lost([2], n)
    assert found.rests(2, STRIKES)
    assert not careful(found)
    assert found.rests(2, REST_S)
    assert not found.rests(2, REST_S + STRIKES)
    # And then it has its three chances again.
    found.lost([2], 2 * REST_S)
    assert not found.rests(2, 2 * REST_S)


def test_an_acknowledgement_clears_a_message_of_its_strikes() -> None:
    found = Suspects()
    for _ in range(5):
        for _ in range(STRIKES - 1):
            found.lost([1], 0.0)
        found.cleared([1])
    assert not found.rests(1, 0.0)


def test_a_connection_that_ends_with_nothing_under_way_accuses_nobody() -> None:
    found = Suspects()
    found.lost([], 0.0)
    assert not careful(found)
