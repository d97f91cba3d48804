from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import topics
from protocols.errors import TopicError
from protocols.topics import Topic
from tests.protocols.strategies import names, schema_ids


@given(names, names, schema_ids)
def test_a_topic_parses_back_to_what_it_was_made_from(tenant: str, agent: str, schema: str) -> None:
    assert topics.parse(topics.data(tenant, agent, "json1")) == Topic(tenant, agent, "data", "json1")
    assert topics.parse(topics.birth(tenant, agent, schema)) == Topic(tenant, agent, "birth", schema)
    assert topics.parse(topics.gap(tenant, agent)) == Topic(tenant, agent, "gap")
    assert topics.parse(topics.session(tenant, agent)) == Topic(tenant, agent, "session")
    assert topics.parse(topics.committed(tenant, agent)) == Topic(tenant, agent, "committed")


def test_the_topics_are_those_that_access_rules_are_written_for() -> None:
    assert topics.data("acme", "gw1", "json1") == "metercarbon/1/acme/gw1/data/json1"
    assert topics.birth("acme", "gw1", "ab") == "metercarbon/1/acme/gw1/birth/ab"
    assert topics.committed("acme", "gw1") == "metercarbon/1/acme/gw1/committed"


@given(names, names, schema_ids)
def test_ingest_hears_everything_upstream_and_not_its_own_messages(tenant: str, agent: str, schema: str) -> None:
    def heard(topic: str) -> bool:
        parts = topic.split("/")
        filters = [pattern.split("/") for pattern in topics.UPSTREAM_FILTERS]
        return any(
            len(pattern) == len(parts) and all(p in ("+", part) for p, part in zip(pattern, parts, strict=True))
            for pattern in filters
        )

    assert heard(topics.data(tenant, agent, "json1"))
    assert heard(topics.birth(tenant, agent, schema))
    assert heard(topics.gap(tenant, agent))
    assert heard(topics.session(tenant, agent))
    assert not heard(topics.committed(tenant, agent))


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "metercarbon/1/acme/gw1",
        "metercarbon/2/acme/gw1/gap",
        "other/1/acme/gw1/gap",
        "metercarbon/1/acme/gw1/data",
        "metercarbon/1/acme/gw1/data/",
        "metercarbon/1/acme/gw1/data/json1/more",
        "metercarbon/1/acme/gw1/gap/more",
        "metercarbon/1/acme/gw1/talk",
        "metercarbon/1//gw1/gap",
        "metercarbon/1/acme/+/gap",
        "metercarbon/1/acme/#/gap",
        "metercarbon/1/ac me/gw1/gap",
        f"metercarbon/1/{'a' * 65}/gw1/gap",
        "/metercarbon/1/acme/gw1/gap",
    ],
)
def test_any_other_topic_is_refused(topic: str) -> None:
    with pytest.raises(TopicError):
        topics.parse(topic)


segments = st.sampled_from(["metercarbon", "1", "2", "acme", "gw1", "data", "birth", "gap", "json1", "", "+", "#", "ä"])


@given(st.one_of(st.text(), st.lists(segments, max_size=7).map(lambda rest: "/".join(["metercarbon", "1", *rest]))))
def test_no_text_makes_parsing_fail_in_another_way(text: str) -> None:
    try:
        parsed = topics.parse(text)
    except TopicError:
        return
    assert str(parsed) == text


@pytest.mark.parametrize("name", ["a", "生料磨", "Main-1.b_2", "x" * 64])
def test_names_are_letters_digits_and_three_signs(name: str) -> None:
    assert topics.check_name("device", name) == name


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a+", "#", "a\0", "a\n", "x" * 65, "kWh³/"])
def test_a_wrong_name_is_told_what_it_is_and_the_rule(name: str) -> None:
    with pytest.raises(TopicError, match=r"device .* is not allowed; allowed: 1 to 64 letters"):
        topics.check_name("device", name)
