"""A roster is its schema in little memory: every byte that leaves the agent is the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import birth
from protocols.birth import Birth, Point, Schema
from protocols.errors import SchemaError
from protocols.reading import BatchKey
from protocols.roster import Member, Roster, Sheet
from tests.protocols.strategies import names, storable_text

KEY = BatchKey("acme", "gw1", "ab" * 16, 7)
GAUGE: dict[str, Any] = {
    "tag": "t",
    "quantity": "temperature",
    "unit": "degC",
    "kind": "gauge",
    "poll_interval_s": 1,
    "gap_limit_s": 60,
}


@st.composite
def sheets(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The points of a device, without its name."""
    return [
        {
            "tag": tag,
            "quantity": "active_energy",
            "unit": "kWh",
            "kind": "counter",
            "medium": "electricity",
            "poll_interval_s": draw(st.floats(0.1, 60)),
            "gap_limit_s": 900,
            "heartbeat_s": draw(st.none() | st.floats(1, 900)),
            "scale": draw(st.sampled_from([1, 0.1, 1e-22, 1e22, -3])),
            "modulus": draw(st.none() | st.floats(1, 1e12)),
            "address": draw(storable_text),
            "model": draw(st.none() | storable_text),
        }
        for tag in draw(st.lists(names, min_size=1, max_size=4, unique=True))
    ]


@st.composite
def devices(draw: st.DrawFn) -> list[tuple[str, str | None, int]]:
    """Names, serial numbers, and which of two sheets."""
    found = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    return [(name, draw(st.none() | storable_text), draw(st.integers(0, 1))) for name in found]


def point(device: str, serial: str | None, definition: dict[str, Any]) -> Point:
    return Point.model_validate({**definition, "device": device, "serial": serial})


@given(names, st.tuples(sheets(), sheets()), devices())
def test_a_roster_has_the_id_the_bytes_and_the_points_of_its_schema(
    site: str, definitions: tuple[list[dict[str, Any]], ...], listed: list[tuple[str, str | None, int]]
) -> None:
    points = [point(name, serial, one) for name, serial, which in listed for one in definitions[which]]
    schema = Schema(site=site, points=tuple(points))
    shared = [Sheet([point("any", "1", one) for one in sheet]) for sheet in definitions]

    roster = Roster(site, [Member(name, serial, shared[which]) for name, serial, which in listed])

    assert roster.id() == schema.id()
    payload = birth.encode(KEY, 12, roster)
    assert payload == Birth(KEY, 12, schema).encode()
    assert birth.decode(payload).schema == schema
    assert list(roster.points) == points
    assert [roster.points[at] for at in range(-len(points), len(points))] == [*points, *points]
    assert list(roster.points[1:]) == points[1:]
    assert [roster.device_of(at) for at in range(len(roster))] == [one.device for one in points]
    for name in Point.model_fields:
        assert roster.column(name) == schema.column(name)
    with pytest.raises(IndexError):
        roster.points[len(points)]


def test_devices_that_share_a_sheet_cost_next_to_nothing() -> None:
    sheet = Sheet([point("any", None, {**GAUGE, "tag": f"t{n}"}) for n in range(50)])
    roster = Roster("plant", [Member(f"d{n}", None, sheet) for n in range(2000)])

    assert len(roster) == 100_000
    types = roster.column("value_type")
    assert all(one is types[0] for one in types)
    assert roster.points[99_999].device == "d1999"


def test_a_sheet_with_two_tags_of_one_name_is_refused() -> None:
    one = point("a", None, GAUGE)
    with pytest.raises(SchemaError, match=r"^2 tags 't'; allowed: one of each name$"):
        Sheet([one, one])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "schema has no point; allowed: at least one"),
        ([Member("a", None, Sheet([]))], "schema has no point; allowed: at least one"),
        (
            [
                Member("a", None, Sheet([])),
                Member("a", None, Sheet([point("a", None, GAUGE)])),
            ],
            "two devices 'a'; allowed: one of each name",
        ),
    ],
)
def test_a_roster_that_cannot_be_a_schema_is_refused(members: list[Member], message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        Roster("plant", members)
    assert str(caught.value) == message
