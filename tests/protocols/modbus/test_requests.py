"""Laws of request plans."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DecodePlanError
from protocols.modbus.limits import Limits, TableName
from protocols.modbus.requests import Cost, FieldAddress, Request, bisect, data_bytes, plan

TABLES: tuple[TableName, ...] = ("coil", "discrete", "input", "holding")
costs = st.builds(
    Cost,
    st.sampled_from([0.0, 0.002, 0.02, 0.1]),
    st.sampled_from([240.0, 960.0, 11_520.0, 1e7]),
)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    return Limits(
        max_registers=draw(st.integers(4, 125)),
        max_coils=draw(st.integers(1, 200)),
        one_field_per_request=draw(st.booleans()),
    )


@st.composite
def field_sets(draw: st.DrawFn, most: int = 24) -> list[FieldAddress]:
    """Fields with holes, some at the same place, listed in any order."""
    places: list[tuple[TableName, int, int]] = []
    for table in draw(st.sets(st.sampled_from(TABLES))):
        here = draw(st.integers(0, 60_000))
        for _ in range(draw(st.integers(1, most))):
            count = draw(st.sampled_from([1, 2, 4])) if table in ("input", "holding") else 1
            places.append((table, here, count))
            here += count + draw(st.one_of(st.just(0), st.integers(0, 60)))
    if places:
        places += draw(st.lists(st.sampled_from(places), max_size=3))
    places = draw(st.permutations(places))
    return [FieldAddress(index, *place) for index, place in enumerate(places)]


def total(requests: tuple[Request, ...], cost: Cost) -> float:
    return cost.seconds(len(requests), sum(data_bytes(r.table, r.count) for r in requests))


@given(field_sets(), limits(), costs)
def test_every_field_is_read_exactly_once_whole_and_in_its_table(
    fields: list[FieldAddress], limit: Limits, cost: Cost
) -> None:
    requests = plan(fields, 3, limit, cost)
    assert sorted(index for request in requests for index in request.fields) == [f.index for f in fields]
    for request in requests:
        assert request.unit_id == 3
        for index in request.fields:
            field = fields[index]
            assert field.table == request.table
            assert request.address <= field.address
            assert field.address + field.count <= request.address + request.count


@given(field_sets(), limits(), costs)
def test_no_request_exceeds_the_device_or_reads_more_than_from_its_first_to_its_last_field(
    fields: list[FieldAddress], limit: Limits, cost: Cost
) -> None:
    for request in plan(fields, 1, limit, cost):
        mine = [fields[index] for index in request.fields]
        assert request.count <= limit.most(request.table)
        assert request.address == min(f.address for f in mine)
        assert request.address + request.count == max(f.address + f.count for f in mine)
        if limit.one_field_per_request:
            assert len({(f.address, f.count) for f in mine}) == 1


@given(field_sets(), limits(), costs)
def test_a_plan_never_costs_more_than_one_request_per_field(
    fields: list[FieldAddress], limit: Limits, cost: Cost
) -> None:
    apart = tuple(Request(1, f.table, f.address, f.count, (f.index,)) for f in fields)
    assert total(plan(fields, 1, limit, cost), cost) <= total(apart, cost) * (1 + 1e-9)


@given(field_sets(), limits(), costs)
def test_a_hole_is_read_only_if_that_is_not_dearer_than_another_round_trip(
    fields: list[FieldAddress], limit: Limits, cost: Cost
) -> None:
    for request in plan(fields, 1, limit, cost):
        mine = sorted((fields[index] for index in request.fields), key=lambda f: f.address)
        whole = cost.seconds(1, data_bytes(request.table, request.count))
        for before, after in pairwise(mine):
            first = before.address + before.count - request.address
            second = request.address + request.count - after.address
            if before.address + before.count < after.address:
                split = cost.seconds(2, data_bytes(request.table, first) + data_bytes(request.table, second))
                assert whole <= split * (1 + 1e-9)


@given(field_sets(), costs)
def test_neighbours_that_would_be_cheaper_together_are_merged(fields: list[FieldAddress], cost: Cost) -> None:
    limit = Limits()
    for one, other in pairwise(plan(fields, 1, limit, cost)):
        count = other.address + other.count - one.address
        if one.table == other.table and count <= limit.most(one.table):
            assert total((one, other), cost) <= cost.seconds(1, data_bytes(one.table, count)) * (1 + 1e-9)


@given(field_sets(most=7), limits(), costs)
def test_no_other_way_to_cut_is_cheaper(fields: list[FieldAddress], limit: Limits, cost: Cost) -> None:
    for table in TABLES:
        places = sorted({(f.address, f.count) for f in fields if f.table == table})
        best = float("inf")
        for cuts in product([True, False], repeat=max(len(places) - 1, 0)):
            runs: list[list[tuple[int, int]]] = [[places[0]]] if places else []
            for place, cut in zip(places[1:], cuts, strict=True):
                if cut:
                    runs.append([place])
                else:
                    runs[-1].append(place)
            counts = [run[-1][0] + run[-1][1] - run[0][0] for run in runs]
            if all(len(run) == 1 or count <= limit.most(table) for run, count in zip(runs, counts, strict=True)) and (
                not limit.one_field_per_request or len(runs) == len(places)
            ):
                best = min(best, cost.seconds(len(runs), sum(data_bytes(table, count) for count in counts)))
        mine = tuple(r for r in plan(fields, 1, limit, cost) if r.table == table)
        assert total(mine, cost) == pytest.approx(best)


@given(field_sets(), limits(), costs, st.randoms(use_true_random=False))
def test_the_order_in_which_fields_are_listed_does_not_matter(
    fields: list[FieldAddress], limit: Limits, cost: Cost, shuffle: object
) -> None:
    assert plan(fields[::-1], 1, limit, cost) == plan(fields, 1, limit, cost)


def test_the_link_decides_whether_a_hole_is_read() -> None:
    fields = [FieldAddress(0, "holding", 0, 2), FieldAddress(1, "holding", 60, 2)]
    slow_line = Cost(round_trip_s=0.02, bytes_per_s=960)
    far_gateway = Cost(round_trip_s=0.2, bytes_per_s=960)
    assert [(r.address, r.count) for r in plan(fields, 1, Limits(), slow_line)] == [(0, 2), (60, 2)]
    assert [(r.address, r.count) for r in plan(fields, 1, Limits(), far_gateway)] == [(0, 62)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([FieldAddress(0, "holding", 10, 2), FieldAddress(1, "holding", 11, 2)], "holding 11 to 12 overlaps 10 to 11"),
        ([FieldAddress(0, "holding", 10, 2), FieldAddress(1, "holding", 10, 4)], "holding 10 to 13 overlaps 10 to 11"),
        ([FieldAddress(0, "input", 65_535, 2)], "within 0 to 65535"),
        ([FieldAddress(0, "coil", -1, 1)], "coil -1"),
        ([FieldAddress(0, "input", 0, 4)], "up to 3 per request"),
    ],
)
def test_fields_that_cannot_be_read_are_refused(fields: list[FieldAddress], words: str) -> None:
    with pytest.raises(DecodePlanError, match=words):
        plan(fields, 1, Limits(max_registers=3 if fields[0].count == 4 else 125), Cost(0.01, 1000))


@pytest.mark.parametrize("numbers", [(-1.0, 10.0), (0.1, 0.0), (float("nan"), 10.0), (0.1, float("nan"))])
def test_a_cost_that_makes_no_sense_is_refused(numbers: tuple[float, float]) -> None:
    with pytest.raises(DecodePlanError, match="allowed"):
        Cost(*numbers)


@given(field_sets(), limits(), costs, st.data())
def test_bisecting_finds_the_one_address_that_the_device_lacks(
    fields: list[FieldAddress], limit: Limits, cost: Cost, data: st.DataObject
) -> None:
    requests = plan(fields, 1, limit, cost)
    if not requests:
        return
    request = data.draw(st.sampled_from(requests))
    missing = fields[data.draw(st.sampled_from(request.fields))]
    place = (missing.address, missing.count)
    good: list[int] = []
    steps = 0
    while len({(fields[i].address, fields[i].count) for i in request.fields}) > 1:
        halves = bisect(request, fields)
        assert sorted(halves[0].fields + halves[1].fields) == sorted(request.fields)
        assert halves[0].address + halves[0].count <= halves[1].address
        bad = [h for h in halves if any((fields[i].address, fields[i].count) == place for i in h.fields)]
        assert len(bad) == 1
        good += [i for h in halves if h is not bad[0] for i in h.fields]
        request = bad[0]
        steps += 1
    assert {(fields[i].address, fields[i].count) for i in request.fields} == {place}
    assert not set(good) & set(request.fields)
    assert steps <= 5
    with pytest.raises(DecodePlanError, match="can't be split"):
        bisect(request, fields)


def test_coils_within_reach_are_one_request_from_zero_where_a_device_wants_that() -> None:
    fields = [FieldAddress(n, "coil", address, 1) for n, address in enumerate((5, 1999, 2000, 2001))]
    fields.append(FieldAddress(4, "discrete", 5, 1))
    planned = plan(fields, 1, Limits(coils_from_zero=True), Cost(0.0, 1.0))
    assert [(r.table, r.address, r.count, r.fields) for r in planned] == [
        ("coil", 0, 2000, (0, 1)),
        ("coil", 2000, 2, (2, 3)),
        ("discrete", 5, 1, (4,)),
    ]
    lower, upper = bisect(planned[0], fields)
    assert (lower.address, lower.count) == (0, 6)
    assert (upper.address, upper.count) == (1999, 1)
    (alone,) = plan(fields[2:3], 1, Limits(coils_from_zero=True), Cost(0.0, 1.0))
    assert alone.address == 2000
