from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cloud_ingest.store import copy, readings
from cloud_ingest.store.copy import Rows
from cloud_ingest.store.partitions import Partitions
from cloud_ingest.store.pool import Connection
from protocols.quality import Quality
from protocols.reading import ValueType

T0 = 1_655_136_000_000_000
S = 1_000_000
DTYPES: dict[ValueType, Any] = {"float": np.float64, "int": np.int64, "bool": np.bool_, "text": np.object_}
Reading = tuple[int, int, Any, int, int]
"""Point, second, value, batch, quality."""


def put(conn: Connection, *rows: Reading, value_type: ValueType = "float") -> None:
    points, seconds, values, batches, qualities = zip(*rows, strict=True)
    times = np.array(seconds, np.int64) * S + T0
    Partitions(conn, 7).ensure(value_type, times)
    filled = [("" if value_type == "text" else 0) if value is None else value for value in values]
    copy.write(
        conn,
        Rows(
            value_type,
            times,
            np.array(filled, DTYPES[value_type]),
            np.array(batches, np.int64),
            np.array(points, np.int32),
            np.array(qualities, np.uint8),
        ),
    )


def seconds(series: readings.Series) -> list[int]:
    return [int(at_us - T0) // S for at_us in series.times_us]


def fetch(conn: Connection, first: int, last: int, **more: int) -> readings.Series:
    return readings.fetch(conn, "float", [1], T0 + first * S, T0 + last * S, **more)[1]


def test_both_ends_of_the_range_belong_to_it(conn: Connection) -> None:
    put(conn, *((1, n, n * 1.5, 1, 0) for n in range(10)))
    series = fetch(conn, 3, 6)
    assert seconds(series) == [3, 4, 5, 6]
    assert series.values.tolist() == [4.5, 6.0, 7.5, 9.0]


def test_a_point_without_readings_has_an_empty_series(conn: Connection) -> None:
    put(conn, (1, 0, 1.0, 1, 0))
    assert len(readings.fetch(conn, "float", [1, 2], T0, T0)[2]) == 0


def test_equal_rows_of_one_time_collapse(conn: Connection) -> None:
    put(conn, (1, 0, 1.0, 1, 0), (1, 0, 1.0, 2, 0), (1, 1, None, 1, 130), (1, 1, None, 2, 130))
    series = fetch(conn, 0, 9)
    assert series.qualities.tolist() == [0, 130]
    assert series.batch_ids.tolist() == [2, 2]


def test_of_different_rows_the_later_in_the_ledger_counts_and_is_flagged(conn: Connection) -> None:
    put(conn, (1, 0, 7.0, 5, 0), (1, 0, 1.0, 3, 0), (1, 0, 7.0, 4, 0), (1, 1, 2.0, 3, 0))
    series = fetch(conn, 0, 9)
    assert series.values.tolist() == [7.0, 2.0]
    assert series.qualities.tolist() == [Quality.UNCERTAIN_CONFLICT, 0]


def test_a_later_bad_row_stays_bad(conn: Connection) -> None:
    put(conn, (1, 0, 7.0, 1, 0), (1, 0, None, 2, 130))
    series = fetch(conn, 0, 9)
    assert series.qualities.tolist() == [130]
    assert np.isnan(series.as_float()).all()


def test_the_order_in_which_rows_came_makes_no_difference(conn: Connection) -> None:
    rows: list[Reading] = [(1, n % 7, float(n % 3), n % 4, 0) for n in range(60)]
    put(conn, *rows)
    before = fetch(conn, 0, 9)
    conn.execute("TRUNCATE reading_float")
    for row in reversed(rows):
        put(conn, row)
    after = fetch(conn, 0, 9)
    assert before.values.tolist() == after.values.tolist()
    assert before.qualities.tolist() == after.qualities.tolist()
    assert before.batch_ids.tolist() == after.batch_ids.tolist()


def test_the_nearest_valid_neighbours_come_along(conn: Connection) -> None:
    put(conn, (1, 0, 1.0, 1, 0), (1, 2, 2.0, 1, 0), (1, 3, None, 1, 130), (1, 10, None, 1, 130), (1, 12, 3.0, 1, 64))
    series = fetch(conn, 5, 8, neighbour_limit_us=60 * S)
    assert seconds(series) == [2, 3, 10, 12]


def test_a_neighbour_beyond_the_limit_stays_away(conn: Connection) -> None:
    put(conn, (1, 0, 1.0, 1, 0), (1, 6, 2.0, 1, 0), (1, 20, 3.0, 1, 0))
    assert seconds(fetch(conn, 5, 8, neighbour_limit_us=5 * S)) == [0, 6]
    assert seconds(fetch(conn, 5, 8, neighbour_limit_us=4 * S)) == [6]
    assert seconds(fetch(conn, 5, 8)) == [6]


def test_a_neighbour_that_a_later_row_made_bad_does_not_count(conn: Connection) -> None:
    put(conn, (1, 0, 1.0, 1, 0), (1, 2, 2.0, 1, 0), (1, 2, None, 2, 130), (1, 6, 3.0, 1, 0))
    assert seconds(fetch(conn, 5, 8, neighbour_limit_us=60 * S))[0] == 0


def test_what_a_valid_neighbour_is_can_be_narrowed(conn: Connection) -> None:
    put(conn, (1, 0, 1.0, 1, 0), (1, 2, 2.0, 1, Quality.UNCERTAIN_TIME), (1, 6, 3.0, 1, 0))
    assert seconds(fetch(conn, 5, 8, neighbour_limit_us=60 * S, neighbour_below=64)) == [0, 2, 6]


@pytest.mark.parametrize(
    ("value_type", "values"),
    [("int", [2**63 - 1, -(2**63), 2**53 + 1]), ("bool", [True, False, True]), ("text", ["a", "", "ü∞"])],
)
def test_every_value_type_comes_back_exactly(conn: Connection, value_type: ValueType, values: list[Any]) -> None:
    put(conn, *((1, n, value, 1, 0) for n, value in enumerate(values)), (1, 9, None, 1, 140), value_type=value_type)
    series = readings.fetch(conn, value_type, [1], T0, T0 + 9 * S)[1]
    assert series.values.tolist()[:3] == values
    assert series.qualities.tolist() == [0, 0, 0, 140]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_put_together_are_the_whole(conn: Connection, limit: int) -> None:
    put(conn, *((1, n // 3, float(n % 2), n % 5, 0) for n in range(60)))
    whole = fetch(conn, 0, 99)
    pages: list[int] = []
    values: list[float] = []
    at_us: int | None = T0
    while at_us is not None:
        series, at_us = readings.page(conn, "float", 1, at_us, T0 + 99 * S, limit)
        assert 0 < len(series) <= limit
        pages += series.times_us.tolist()
        values += series.values.tolist()
    assert pages == whole.times_us.tolist()
    assert values == whole.values.tolist()
