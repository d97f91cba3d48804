from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_ingest.store import copy
from cloud_ingest.store.copy import Rows
from cloud_ingest.store.partitions import Partitions
from cloud_ingest.store.pool import Connection
from protocols.quality import FIRST_BAD
from protocols.reading import INT_MAX, INT_MIN, VALUE_TYPES, ValueType

WEEK_US = 7 * 86_400_000_000
FIRST_US = 1_655_000_000_000_000

VALUES: dict[ValueType, st.SearchStrategy[Any]] = {
    "float": st.floats(width=64),
    "int": st.integers(INT_MIN, INT_MAX),
    "bool": st.booleans(),
    "text": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
}
EMPTY: dict[ValueType, Any] = {"float": 0.0, "int": 0, "bool": False, "text": None}
DTYPES: dict[ValueType, Any] = {"float": np.float64, "int": np.int64, "bool": np.bool_, "text": np.object_}


def reading(value_type: ValueType) -> st.SearchStrategy[tuple[int, Any, int, int, int]]:
    common = (st.integers(FIRST_US, FIRST_US + WEEK_US), st.integers(1, 2**40), st.integers(1, 2**31 - 1))
    good = st.tuples(common[0], VALUES[value_type], common[1], common[2], st.integers(0, FIRST_BAD - 1))
    bad = st.tuples(common[0], st.none(), common[1], common[2], st.integers(FIRST_BAD, 255))
    return good | bad


def rows_of(value_type: ValueType, readings: list[tuple[int, Any, int, int, int]]) -> Rows:
    at, values, batches, points, qualities = zip(*readings, strict=True)
    filled = [EMPTY[value_type] if value is None else value for value in values]
    return Rows(
        value_type,
        np.array(at, np.int64),
        np.array(filled, DTYPES[value_type]),
        np.array(batches, np.int64),
        np.array(points, np.int32),
        np.array(qualities, np.uint8),
    )


def comparable(value: Any) -> Any:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else (value, math.copysign(1, value))
    return value


@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_what_is_copied_in_reads_back_the_same(conn: Connection, value_type: ValueType) -> None:
    partitions = Partitions(conn, 7)
    partitions.ensure(value_type, np.arange(FIRST_US, FIRST_US + 2 * WEEK_US, WEEK_US))

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(reading(value_type), min_size=1, max_size=60))
    def round_trip(readings: list[tuple[int, Any, int, int, int]]) -> None:
        conn.execute(f"TRUNCATE reading_{value_type}".encode())
        with conn.transaction():
            copy.write(conn, rows_of(value_type, readings))
        at_us = "(extract(epoch FROM at) * 1000000)::bigint"
        query = f"SELECT {at_us}, value, batch_id, point_id, quality FROM reading_{value_type}"
        stored = conn.execute(query.encode()).fetchall()
        assert sorted(map(repr, ((a, comparable(v), b, p, q) for a, v, b, p, q in stored))) == sorted(
            map(repr, ((a, comparable(v), b, p, q) for a, v, b, p, q in readings))
        )

    round_trip()


def test_rows_go_out_sorted_by_point_and_time() -> None:
    rows = rows_of("float", [(30, 3.0, 1, 2, 0), (20, 2.0, 1, 1, 0), (10, 1.0, 1, 2, 0), (5, 0.5, 1, 9, 0)]).sorted()
    assert list(zip(rows.point_ids.tolist(), rows.at_us.tolist(), strict=True)) == [(1, 20), (2, 10), (2, 30), (9, 5)]
    assert rows.values.tolist() == [2.0, 1.0, 3.0, 0.5]


@pytest.mark.parametrize("span_us", [10, 2**62])
def test_rows_are_sorted_however_far_apart(span_us: int) -> None:
    readings = [(span_us, 1.0, 1, 2**31 - 1, 0), (0, 2.0, 1, 2**31 - 1, 0), (span_us, 3.0, 1, 1, 0), (0, 4.0, 1, 1, 0)]
    assert rows_of("float", readings).sorted().values.tolist() == [4.0, 3.0, 2.0, 1.0]
