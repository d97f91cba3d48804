from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import status, topics
from protocols.errors import PayloadError, TopicError
from protocols.status import BufferStatus, Status
from tests.protocols.strategies import names

counts = st.integers(min_value=0, max_value=2**63 - 1)
statuses = st.builds(
    Status,
    tenant=names,
    agent=names,
    at_us=counts,
    software=st.text(st.characters(exclude_characters="\0", codec="utf-8")),
    uptime_s=counts,
    synchronised=st.booleans(),
    buffer=st.none() | st.builds(BufferStatus, counts, counts, counts),
    units_good=counts,
    units_bad=counts,
    overruns=counts,
    reconnects=counts,
    commit_latency_ms=st.none() | counts,
)
SAMPLE = Status("acme", "gw1", 1, "edge-agent 1", 60, True, BufferStatus(3, 4096, 7), 12, 1, 0, 2, 150)


@given(statuses)
def test_a_status_reads_back(found: Status) -> None:
    assert status.decode(found.encode()) == found


def test_the_bytes_are_those_that_displays_are_written_for() -> None:
    assert orjson.loads(SAMPLE.encode()) == {
        "v": 1,
        "tenant": "acme",
        "agent": "gw1",
        "at": 1,
        "software": "edge-agent 1",
        "uptime_s": 60,
        "synchronised": True,
        "buffer": {"pending": 3, "bytes": 4096, "oldest_s": 7},
        "units": {"good": 12, "bad": 1},
        "overruns": 0,
        "reconnects": 2,
        "commit_latency_ms": 150,
    }
    assert topics.status("acme", "gw1") == "metercarbon/1/acme/gw1/status"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, "status has version 2; allowed: 1"),
        ({"tenant": "a/b"}, "tenant 'a/b' is not allowed"),
        ({"uptime_s": -1}, "status.uptime_s is -1; allowed: 0 to"),
        ({"synchronised": 1}, "status.synchronised is 1; allowed: bool"),
        ({"buffer": {"pending": 1}}, "status.buffer.bytes is None; allowed: int"),
        ({"units": {"good": 1, "bad": 0, "ugly": 0}}, "status.units has unknown key 'ugly'"),
        ({"commit_latency_ms": 0.5}, "status.commit_latency_ms is 0.5; allowed: int"),
        ({"more": 1}, "status has unknown key 'more'"),
    ],
)
def test_anything_else_is_refused_with_the_reason(change: dict[str, object], reason: str) -> None:
    with pytest.raises(PayloadError) as caught:
        status.decode(orjson.dumps(orjson.loads(SAMPLE.encode()) | change))
    assert reason in str(caught.value)


@given(names, names)
def test_ingest_does_not_hear_it_and_no_topic_of_its_own_is_taken_for_it(tenant: str, agent: str) -> None:
    topic = topics.status(tenant, agent)
    parts = topic.split("/")
    for pattern in (found.split("/") for found in topics.UPSTREAM_FILTERS):
        assert len(pattern) != len(parts) or any(p not in ("+", part) for p, part in zip(pattern, parts, strict=True))
    with pytest.raises(TopicError):
        topics.parse(topic)
