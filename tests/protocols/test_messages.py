"""Gap, committed and session: round trips, refusals, and no other error than ours for any bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import committed, gap, session
from protocols.committed import Committed, EpochState
from protocols.errors import PayloadError
from protocols.gap import Gap, LostPoints, Reason
from protocols.reading import INT_MAX, MAX_POINT, BatchKey
from protocols.session import Session
from tests.protocols.strategies import (
    epochs,
    int64,
    json_values,
    keys,
    mutations,
    names,
    schema_ids,
    seq_ranges,
    storable_text,
    times,
)

EPOCH, OTHER = "ab" * 16, "cd" * 16
GAP = Gap(
    BatchKey("demo", "gw1", EPOCH, 9),
    1_655_136_000_000_000,
    "disk_full",
    {EPOCH: ((1, 3), (5, 5)), OTHER: ()},
    (LostPoints("ef" * 32, (0, 2), 1_655_136_000_000_000, 1_655_136_010_000_000, 4),),
)
COMMITTED = Committed(
    OTHER, 1_655_136_000_000_000, {EPOCH: EpochState(3, 10, ((12, 14), (16, 16))), OTHER: EpochState(0, 0)}, EPOCH
)
SESSION = Session("demo", "gw1", "online", EPOCH, 1_655_136_000_000_000, "metercarbon 0.1.0", (EPOCH, OTHER))

Message = Gap | Committed | Session
Decoder = Callable[[bytes], Message]
EXAMPLES: list[tuple[Message, Decoder]] = [
    (GAP, gap.decode),
    (COMMITTED, committed.decode),
    (SESSION, session.decode),
]
every_message = pytest.mark.parametrize(("message", "decode"), EXAMPLES, ids=["gap", "committed", "session"])

gaps = st.builds(
    Gap,
    keys,
    times,
    st.sampled_from(get_args(Reason)),
    st.dictionaries(epochs, seq_ranges(), max_size=3),
    st.lists(
        st.builds(
            LostPoints,
            schema_ids,
            st.lists(st.integers(0, MAX_POINT), max_size=5).map(tuple),
            times,
            times,
            st.integers(0, INT_MAX),
        ),
        max_size=3,
    ).map(tuple),
)
states = st.builds(EpochState, st.integers(0, INT_MAX), st.integers(0, INT_MAX), seq_ranges())
commits = st.builds(
    Committed, epochs, times, st.dictionaries(epochs, states, max_size=3), st.one_of(st.just(""), epochs)
)
sessions = st.builds(
    Session,
    names,
    names,
    st.sampled_from(["online", "offline"]),
    epochs,
    int64,
    storable_text,
    st.lists(epochs, max_size=4).map(tuple),
    storable_text,
)


@given(gaps)
def test_a_gap_record_comes_back_as_it_was(message: Gap) -> None:
    assert gap.decode(message.encode()) == message


@given(commits)
def test_a_committed_message_comes_back_as_it_was(message: Committed) -> None:
    assert committed.decode(message.encode()) == message


@given(sessions)
def test_a_session_record_comes_back_as_it_was(message: Session) -> None:
    assert session.decode(message.encode()) == message


@given(states, st.integers(1, INT_MAX))
def test_a_state_covers_its_watermark_and_its_ranges_and_nothing_else(state: EpochState, seq: int) -> None:
    assert state.covers(seq) == (seq <= state.through or any(a <= seq <= b for a, b in state.ranges))
    for first, last in state.ranges:
        assert state.covers(first)
        assert state.covers(last)


def test_an_empty_state_covers_nothing() -> None:
    assert not EpochState(0, 0).covers(1)


@every_message
@given(data=st.data())
def test_a_mutated_message_is_valid_or_a_payload_error(message: Message, decode: Decoder, data: st.DataObject) -> None:
    payload = data.draw(st.one_of(mutations(message.encode()), json_values.map(orjson.dumps), st.binary(max_size=40)))
    try:
        found = decode(payload)
    except PayloadError:
        return
    assert decode(found.encode()) == found


@pytest.mark.parametrize(
    ("decode", "message", "changes", "words"),
    [
        (gap.decode, GAP, {"v": 2}, "gap has version 2; allowed: 1"),
        (gap.decode, GAP, {"x": 0}, "gap has unknown key 'x'"),
        (gap.decode, GAP, {"reason": "bored"}, "gap.reason is 'bored'; allowed: disk_full, size_limit"),
        (gap.decode, GAP, {"seq": 0}, "gap.seq is 0; allowed: 1 to"),
        (gap.decode, GAP, {"dropped": {"x": []}}, "gap.dropped.epoch is 'x'; allowed: 32 lower-case hex"),
        (gap.decode, GAP, {"dropped": {EPOCH: [[3, 1]]}}, r"holds \[3, 1\]; allowed: ascending disjoint"),
        (gap.decode, GAP, {"dropped": {EPOCH: [[1, 3], [3, 4]]}}, r"holds \[3, 4\]; allowed: ascending disjoint"),
        (gap.decode, GAP, {"dropped": {EPOCH: [[0, 3]]}}, r"holds \[0, 3\]; .* from 1"),
        (gap.decode, GAP, {"dropped": {EPOCH: [[1, True]]}}, r"holds \[1, True\]"),
        (gap.decode, GAP, {"dropped": {EPOCH: None}}, r"is None; allowed: a list of \[first, last\]"),
        (gap.decode, GAP, {"lost": [5]}, r"gap\.lost\[0\] is 5; allowed: an object"),
        (gap.decode, GAP, {"lost": [{"y": 5}]}, r"gap\.lost\[0\] has unknown key 'y'"),
        (committed.decode, COMMITTED, {"v": None}, "committed has version None; allowed: 1"),
        (committed.decode, COMMITTED, {"incarnation": "x"}, "committed.incarnation is 'x'"),
        (committed.decode, COMMITTED, {"answers": None}, "committed.answers is None; allowed: str"),
        (committed.decode, COMMITTED, {"epochs": {"x": {}}}, "committed.epoch is 'x'; allowed: 32"),
        (committed.decode, COMMITTED, {"epochs": {EPOCH: 1}}, f"committed.epochs.{EPOCH} is 1; allowed: an object"),
        (
            committed.decode,
            COMMITTED,
            {"epochs": {EPOCH: {"position": -1, "through": 0, "ranges": []}}},
            f"committed.epochs.{EPOCH}.position is -1; allowed: 0 to",
        ),
        (
            committed.decode,
            COMMITTED,
            {"epochs": {EPOCH: {"position": 1, "through": 0}}},
            f"committed.epochs.{EPOCH}.ranges is None",
        ),
        (session.decode, SESSION, {"state": "asleep"}, "session.state is 'asleep'; allowed: online, offline"),
        (session.decode, SESSION, {"agent": "a/b"}, "session: agent 'a/b' is not allowed"),
        (session.decode, SESSION, {"epochs": [1]}, "session.epochs.epoch is 1; allowed: str"),
        (session.decode, SESSION, {"software": "a\0"}, "session.software holds a NUL character"),
        (session.decode, SESSION, {"password": "x"}, "session has unknown key 'password'"),
    ],
)
def test_a_wrong_message_is_told_where_and_what_is_allowed(
    decode: Decoder, message: Message, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(PayloadError, match=words):
        decode(orjson.dumps(orjson.loads(message.encode()) | changes))


@pytest.mark.parametrize("index", [-1, MAX_POINT + 1, True, 1.0, "0"])
def test_an_index_that_no_schema_can_have_is_refused(index: object) -> None:
    document = orjson.loads(GAP.encode())
    document["lost"][0]["points"] = [0, index]
    with pytest.raises(PayloadError, match=r"gap\.lost\[0\]\.points is .*; allowed: indices from 0"):
        gap.decode(orjson.dumps(document))


def test_the_bytes_of_version_1_stay_the_same() -> None:
    assert GAP.encode() == (
        b'{"v":1,"tenant":"demo","agent":"gw1","epoch":"abababababababababababababababab","seq":9,'
        b'"at":1655136000000000,"reason":"disk_full","dropped":{"abababababababababababababababab":[[1,3],[5,5]],'
        b'"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd":[]},"lost":[{"schema":"' + b"ef" * 32 + b'","points":[0,2],'
        b'"first":1655136000000000,"last":1655136010000000,"readings":4}]}'
    )
    assert COMMITTED.encode() == (
        b'{"v":1,"incarnation":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","incarnation_at":1655136000000000,'
        b'"answers":"abababababababababababababababab","epochs":{"abababababababababababababababab":'
        b'{"position":3,"through":10,"ranges":[[12,14],[16,16]]},"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd":'
        b'{"position":0,"through":0,"ranges":[]}}}'
    )
    assert SESSION.encode() == (
        b'{"v":1,"tenant":"demo","agent":"gw1","state":"online","session":"abababababababababababababababab",'
        b'"at":1655136000000000,"software":"metercarbon 0.1.0","epochs":["abababababababababababababababab",'
        b'"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"],"detail":""}'
    )
