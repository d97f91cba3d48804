from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from cloud_ingest.errors import RefusedError
from cloud_ingest.store import registry
from cloud_ingest.store.pool import Connection
from protocols.birth import Point, Schema
from tests.support.fake_agent import point


def schema(*points: Point) -> Schema:
    return Schema(site="plant", points=points)


def ids(conn: Connection, tenant_id: int, found: Schema) -> list[int]:
    points = registry.schema_points(conn, tenant_id, bytes.fromhex(found.id()))
    assert points is not None
    return [int(point_id) for point_id in points.point_ids]


def test_points_keep_their_ids_in_a_later_schema(conn: Connection) -> None:
    owner = registry.agent(conn, "acme", "gw1")
    first, later = schema(point("a"), point("b")), schema(point("c"), point("b"), point("a"))
    assert registry.register_schema(conn, owner, first, 1)
    assert registry.register_schema(conn, owner, later, 1)
    assert not registry.register_schema(conn, owner, first, 1)
    a, b = ids(conn, owner.tenant_id, first)
    assert ids(conn, owner.tenant_id, later)[1:] == [b, a]


def test_the_schema_order_is_kept_not_that_of_names(conn: Connection) -> None:
    owner = registry.agent(conn, "acme", "gw1")
    found = schema(point("z"), point("a", "int"), point("m", "bool"))
    registry.register_schema(conn, owner, found, 1)
    points = registry.schema_points(conn, owner.tenant_id, bytes.fromhex(found.id()))
    assert points is not None
    assert points.names == ("plant/meter/z", "plant/meter/a", "plant/meter/m")
    assert points.value_types.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"unit": "MWh"}, "unit"),
        ({"value_type": "int"}, "value_type"),
        ({"quantity": "reactive_energy", "unit": "kvarh"}, "quantity"),
    ],
)
def test_an_incompatible_redefinition_is_refused_as_a_whole(
    conn: Connection, change: dict[str, str], field: str
) -> None:
    owner = registry.agent(conn, "acme", "gw1")
    registry.register_schema(conn, owner, schema(point("a")), 1)
    changed = point("a").model_copy(update=change)
    with pytest.raises(RefusedError, match=f"'plant/meter/a'.*{field}.*as before"):
        registry.register_schema(conn, owner, schema(point("new"), changed), 1)
    assert conn.execute("SELECT count(*) FROM point").fetchone() == (1,)
    assert conn.execute("SELECT count(*) FROM schema").fetchone() == (1,)


def test_a_compatible_redefinition_is_the_latest_description(conn: Connection) -> None:
    owner = registry.agent(conn, "acme", "gw1")
    registry.register_schema(conn, owner, schema(point("a")), 1)
    registry.register_schema(conn, owner, schema(point("a").model_copy(update={"poll_interval_s": 5.0})), 1)
    assert conn.execute("SELECT definition->>'poll_interval_s' FROM point").fetchall() == [("5.0",)]


def test_two_tenants_may_use_the_same_names(conn: Connection) -> None:
    one, other = registry.agent(conn, "acme", "gw1"), registry.agent(conn, "emca", "gw1")
    found = schema(point("a"))
    registry.register_schema(conn, one, found, 1)
    registry.register_schema(conn, other, found, 1)
    assert ids(conn, one.tenant_id, found) != ids(conn, other.tenant_id, found)


def test_workers_that_register_the_same_at_once_agree(connect: Callable[[], Connection]) -> None:
    found = [schema(*(point(f"p{n}") for n in range(start, start + 20))) for start in (0, 10, 0, 15)]
    new: list[bool] = []
    failures: list[psycopg.Error] = []

    def register(conn: Connection, mine: Schema) -> None:
        try:
            new.append(registry.register_schema(conn, registry.agent(conn, "acme", "gw1"), mine, 1))
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=register, args=(connect(), mine)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(new) == 3
    conn = connect()
    assert conn.execute("SELECT count(*) FROM point").fetchone() == (35,)
    assert conn.execute("SELECT count(*) FROM agent").fetchone() == (1,)
