from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.ingest.decode import Cleared, Dead, parse
from cloud_ingest.store.ledger import MAX_SEQ, Kind
from protocols import topics
from protocols.birth import Birth
from protocols.gap import Gap
from protocols.reading import Batch
from protocols.session import Session
from tests.support.fake_agent import FakeAgent, Sent


def changed(sent: Sent, **fields: object) -> Sent:
    return Sent(sent.topic, orjson.dumps(orjson.loads(sent.payload) | fields))


def test_every_message_of_an_agent_is_understood() -> None:
    agent = FakeAgent()
    sent = [agent.birth(), agent.floats(1.0), agent.gap({}), agent.session()]
    assert [type(message.parsed().content) for message in sent] == [Birth, Batch, Gap, Session]
    assert [message.parsed().identity() for message in sent] == [
        (Kind.BIRTH, agent.epoch, 1),
        (Kind.DATA, agent.epoch, 2),
        (Kind.GAP, agent.epoch, 3),
        None,
    ]


@pytest.mark.parametrize(
    "topic", ["other/1/a/b/gap", "metercarbon/1/a/b", "metercarbon/1/a b/c/gap", "metercarbon/1/a/b/what/x", ""]
)
def test_a_topic_that_is_not_ours_is_dead(topic: str) -> None:
    found = parse(topic, b"{}")
    assert isinstance(found.content, Dead)
    assert found.content.kind == "topic"
    assert found.address is None


def test_a_payload_that_claims_another_tenant_or_agent_is_dead_and_its_sender_is_known() -> None:
    agent = FakeAgent("acme", "gw1")
    for sent in (agent.birth(), agent.floats(1.0), agent.gap({})):
        for fields in ({"tenant": "emca"}, {"agent": "gw2"}):
            found = changed(sent, **fields).parsed()
            assert isinstance(found.content, Dead)
            assert found.content.kind == "identity"
            assert found.identity() is not None
            assert found.address is not None
            assert found.address.tenant == "acme"
    session = changed(agent.session(), agent="gw2").parsed()
    assert isinstance(session.content, Dead)


def test_a_batch_with_a_fault_still_says_who_it_is() -> None:
    agent = FakeAgent()
    found = changed(agent.floats(1.0), t0="yesterday").parsed()
    assert isinstance(found.content, Dead)
    assert found.content.kind == "undecodable"
    assert found.identity() == (Kind.DATA, agent.epoch, 1)


def test_an_unknown_codec_is_dead_without_identity() -> None:
    agent = FakeAgent()
    found = parse(topics.data("acme", "gw1", "cbor9"), agent.floats(1.0).payload)
    assert isinstance(found.content, Dead)
    assert "cbor9" in found.content.reason
    assert found.identity() is None


def test_a_birth_on_the_topic_of_another_schema_is_dead() -> None:
    agent = FakeAgent()
    found = parse(topics.birth("acme", "gw1", "0" * 64), agent.birth().payload)
    assert isinstance(found.content, Dead)
    assert found.content.kind == "identity"


def test_a_seq_that_ranges_could_not_hold_is_dead_without_identity() -> None:
    agent = FakeAgent()
    for seq in (MAX_SEQ + 1, 2**63 - 1):
        found = agent.floats(1.0, seq=seq).parsed()
        assert isinstance(found.content, Dead)
        assert found.identity() is None
    assert isinstance(agent.floats(1.0, seq=MAX_SEQ).parsed().content, Batch)


def test_a_retained_message_that_was_removed_says_nothing() -> None:
    agent = FakeAgent()
    assert isinstance(parse(agent.birth().topic, b"").content, Cleared)
    assert isinstance(parse(agent.session().topic, b"").content, Cleared)
    assert isinstance(parse(agent.topic(), b"").content, Dead)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda v: repr(v).encode())
)
def test_no_bytes_raise(payload: bytes) -> None:
    agent = FakeAgent()
    for topic in (agent.topic(), agent.birth().topic, agent.session().topic, topics.gap("acme", "gw1")):
        assert isinstance(parse(topic, payload).content, Dead | Cleared)


def test_deep_nesting_does_not_raise() -> None:
    found = parse(FakeAgent().topic(), b'{"v":' * 5000 + b"1" + b"}" * 5000)
    assert isinstance(found.content, Dead)


def test_a_killed_message_keeps_its_identity() -> None:
    agent = FakeAgent()
    found = agent.floats(1.0).parsed()
    killed = found.killed("poison", "why")
    assert killed.identity() == found.identity()
    assert killed.digest == found.digest
