"""Tenants, sites, agents, points and schemas, registered as births announce them.

Invariants

- Registering is idempotent and safe with several workers at once: births of one tenant take turns.
- A schema is immutable; its points are found by their full names.
- A point's quantity, unit, kind, medium and value type never change: a birth that says otherwise is refused
  as a whole. Everything else is what the latest birth says, by the time
  at which the agent wrote it: births come in any order, retained ones again and again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from cloud_ingest.errors import RefusedError
from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.times import to_datetime
from protocols.birth import Point, Schema
from protocols.reading import VALUE_TYPES

_SQL = sql.load("cloud_ingest.store", "registry.sql")
_LOCK_CLASS = 0x6D65_7465
"""First half of the advisory locks that let births of one tenant take turns; the second is the tenant's id."""
_FIXED = ("quantity", "unit", "kind", "medium", "value_type")


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as the database knows it.

    Attributes
    ----------
    agent_id, tenant_id
        Ids.
    tenant, name
        Names, as in topics.
    disabled
        ``tenant`` or ``agent`` if that was disabled by hand, else empty.
    """

    agent_id: int
    tenant_id: int
    tenant: str
    name: str
    disabled: str = ""


@dataclass(frozen=True, slots=True)
class SchemaPoints:
    """Points of a schema, by index.

    Attributes
    ----------
    point_ids
        Id of each.
    value_types
        Position of each one's value type in `protocols.reading.VALUE_TYPES`.
    names
        Full name of each.
    """

    point_ids: NDArray[np.int32]
    value_types: NDArray[np.int8]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.point_ids)

    @property
    def site(self) -> str:
        """The site of all of them."""
        return self.names[0].partition("/")[0]


def version(conn: Connection) -> int:
    """Grows with every change of tenants, sites and agents by hand."""
    return int(conn.execute(_SQL["version"]).fetchall()[0][0])


def find_agent(conn: Connection, tenant: str, name: str) -> Agent | None:
    """Find an agent; None if it is not registered."""
    row = conn.execute(_SQL["find_agent"], (tenant, name)).fetchone()
    return None if row is None else Agent(row[0], row[1], tenant, name, row[2])


def agent(conn: Connection, tenant: str, name: str) -> Agent:
    """Find an agent, registering it and its tenant if they are new. Commits."""
    with conn.transaction():
        found = find_agent(conn, tenant, name)
        if found is None:
            conn.execute(_SQL["add_tenant"], (tenant,))
            conn.execute(_SQL["add_agent"], (name, tenant))
            found = find_agent(conn, tenant, name)
    assert found is not None
    return found


def site_enabled(conn: Connection, tenant_id: int, site: str) -> bool | None:
    """Whether a site is enabled; None if it is not registered."""
    row = conn.execute(_SQL["find_site"], (tenant_id, site)).fetchone()
    return None if row is None else bool(row[0])


def register_schema(conn: Connection, owner: Agent, schema: Schema, described_us: int) -> bool:
    """Register a schema and its points. Commits.

    Parameters
    ----------
    conn, owner, schema
        Who announces what.
    described_us
        When the agent wrote the birth [µs UTC]: an older one changes no description.

    Returns
    -------
    bool
        Whether it is new.

    Raises
    ------
    RefusedError
        If it contradicts what is known of a point; nothing is registered then.
    """
    schema_id = bytes.fromhex(schema.id())
    with conn.transaction():
        conn.execute(_SQL["lock_tenant"], (_LOCK_CLASS, owner.tenant_id))
        names = [schema.name_of(index) for index in range(len(schema.points))]
        _check(conn, owner, names, schema.points)
        conn.execute(_SQL["add_site"], (owner.tenant_id, schema.site))
        _upsert_points(conn, owner.tenant_id, schema, described_us)
        conn.execute(
            _SQL["add_schema"],
            (owner.tenant_id, schema_id, owner.agent_id, Jsonb(schema.model_dump(mode="json"))),
        )
        added = conn.execute(
            _SQL["add_schema_points"], {"tenant_id": owner.tenant_id, "schema_id": schema_id, "names": names}
        )
    return added.rowcount > 0


def schema_points(conn: Connection, tenant_id: int, schema_id: bytes) -> SchemaPoints | None:
    """Points of a schema; None if the tenant has no such schema."""
    rows = conn.execute(_SQL["schema_points"], (tenant_id, schema_id)).fetchall()
    if not rows:
        return None
    point_ids, value_types, names = zip(*rows, strict=True)
    return SchemaPoints(
        np.array(point_ids, np.int32),
        np.array([VALUE_TYPES.index(value_type) for value_type in value_types], np.int8),
        names,
    )


def _check(conn: Connection, owner: Agent, names: list[str], points: tuple[Point, ...]) -> None:
    known = {row[0]: row[1:] for row in conn.execute(_SQL["find_points"], (owner.tenant_id, names)).fetchall()}
    for name, point in zip(names, points, strict=True):
        for field, found in zip(_FIXED, known.get(name, ()), strict=False):
            asked = getattr(point, field)
            if asked != found:
                raise RefusedError(
                    "redefined",
                    f"point {name!r} of tenant {owner.tenant!r}: {field} is {asked!r}; allowed: {found!r}, as before",
                )


def _upsert_points(conn: Connection, tenant_id: int, schema: Schema, described_us: int) -> None:
    points = sorted(schema.points, key=lambda point: (point.device, point.tag))
    parameters = {
        "tenant_id": tenant_id,
        "site": schema.site,
        "described_at": to_datetime(described_us),
        "definition": [Jsonb(point.model_dump(mode="json")) for point in points],
    }
    parameters |= {field: [getattr(point, field) for point in points] for field in ("device", "tag", *_FIXED)}
    conn.execute(_SQL["upsert_points"], parameters)
