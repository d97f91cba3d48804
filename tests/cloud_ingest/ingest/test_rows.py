from __future__ import annotations

import numpy as np
import pytest

from cloud_ingest.errors import RefusedError
from cloud_ingest.ingest.rows import prepare
from cloud_ingest.store.registry import SchemaPoints
from protocols.reading import Batch, BatchKey, ClockState, Columns, ValueType

POINTS = SchemaPoints(
    np.array([10, 20, 30, 40], np.int32), np.array([0, 1, 2, 3], np.int8), ("s/d/f", "s/d/i", "s/d/b", "s/d/t")
)
T0 = 1_655_136_000_000_000
LATEST = T0 + 1_000_000


def batch(columns: dict[ValueType, Columns], base_us: int = T0) -> Batch:
    key = BatchKey("acme", "gw1", "0" * 32, 1)
    return Batch(key, "0" * 64, base_us, ClockState(synchronised=True, boot_id="", monotonic_us=0), base_us, columns)


def test_indices_become_points_and_offsets_become_times() -> None:
    prepared = prepare(batch({"float": Columns([0, 0], [0, 7], [1.5, None], [0, 130])}), POINTS, LATEST)
    (rows,) = prepared.of_batch(99).stored
    assert rows.point_ids.tolist() == [10, 10]
    assert rows.at_us.tolist() == [T0, T0 + 7]
    assert rows.values[0] == 1.5
    assert rows.qualities.tolist() == [0, 130]
    assert rows.batch_ids.tolist() == [99, 99]
    assert prepared.span_us() == (T0, T0 + 7)
    assert prepared.points().tolist() == [10]


def test_integers_stay_exact_beside_readings_without_value() -> None:
    prepared = prepare(batch({"int": Columns([1, 1], [0, 1], [2**63 - 1, None], [0, 130])}), POINTS, LATEST)
    assert prepared.stored[0].values.tolist() == [2**63 - 1, 0]


def test_every_value_type_goes_to_its_own_rows() -> None:
    columns: dict[ValueType, Columns] = {
        "float": Columns([0], [0], [1]),
        "int": Columns([1], [0], [2]),
        "bool": Columns([2, 2], [0, 1], [True, None], [0, 128]),
        "text": Columns([3, 3], [0, 1], ["x", None], [0, 128]),
    }
    prepared = prepare(batch(columns), POINTS, LATEST)
    assert [(rows.value_type, rows.values.dtype.kind) for rows in prepared.stored] == [
        ("float", "f"),
        ("int", "i"),
        ("bool", "b"),
        ("text", "O"),
    ]
    assert prepared.points().tolist() == [10, 20, 30, 40]


def test_times_that_cannot_be_are_set_aside_and_the_rest_is_stored() -> None:
    offsets = [-T0, 0, 1_000_000, 1_000_001]
    prepared = prepare(batch({"float": Columns([0] * 4, offsets, [1.0, 2.0, 3.0, 4.0])}), POINTS, LATEST)
    assert prepared.stored[0].values.tolist() == [2.0, 3.0]
    assert [(rows.values.tolist(), reason) for rows, reason in prepared.quarantined] == [
        ([1.0], "before the year 2000"),
        ([4.0], "in the future"),
    ]
    assert prepared.size() == 2


def test_a_batch_of_impossible_times_alone_has_no_span() -> None:
    prepared = prepare(batch({"float": Columns([0], [0], [1.0])}, base_us=1), POINTS, LATEST)
    assert prepared.stored == ()
    assert prepared.span_us() is None


@pytest.mark.parametrize(
    ("columns", "base_us", "message"),
    [
        ({"float": Columns([0, 4], [0, 0], [1.0, 2.0])}, T0, "index 4 in a schema of 4"),
        ({"float": Columns([0, 1], [0, 0], [1.0, 2.0])}, T0, "'s/d/i' has a float value; allowed: int"),
        ({"float": Columns([0, 0], [0, 1], [1.0, 2.0])}, 2**63 - 1, "beyond 64 bits"),
        ({"float": Columns([0, 0], [-1, 0], [1.0, 2.0])}, -(2**63), "beyond 64 bits"),
    ],
)
def test_a_batch_that_does_not_fit_its_schema_is_refused(
    columns: dict[ValueType, Columns], base_us: int, message: str
) -> None:
    with pytest.raises(RefusedError, match=message):
        prepare(batch(columns, base_us), POINTS, LATEST)
