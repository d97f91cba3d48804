"""What one connection knows of agents and schemas, so that a flush need not ask.

Invariants

- Nothing remembered outlives the incarnation it was read in, nor the connection: after a restore an id may
  belong to somebody else.
"""

from __future__ import annotations

import time

from cloud_ingest.errors import ContentionError
from cloud_ingest.store import incarnation, registry
from cloud_ingest.store.incarnation import Incarnation
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.registry import Agent, SchemaPoints
from protocols.birth import Birth


class Registry:
    """Remembers agents and schemas.

    Parameters
    ----------
    conn
        The connection, in autocommit mode.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._incarnation: Incarnation = incarnation.current(conn)
        self._agents: dict[tuple[str, str], Agent] = {}
        self._schemas: dict[tuple[int, bytes], SchemaPoints] = {}
        self._described: dict[tuple[int, bytes], int] = {}

    def verify(self) -> None:
        """Make sure, inside the transaction that uses what is remembered, that it still holds.

        Raises
        ------
        ContentionError
            If the database was restored in the meantime; everything is forgotten.
        """
        now = incarnation.current(self._conn)
        if now != self._incarnation:
            self._agents.clear()
            self._schemas.clear()
            self._described.clear()
            self._incarnation = now
            raise ContentionError("the database was restored under the transaction")

    def agent(self, tenant: str, name: str) -> Agent:
        """Find or register an agent."""
        found = self._agents.get((tenant, name))
        if found is None:
            found = self._agents[tenant, name] = registry.agent(self._conn, tenant, name)
        return found

    def register(self, owner: Agent, birth: Birth, schema_id: bytes) -> bool:
        """Register the schema of a birth; whether it is new.

        Raises
        ------
        RefusedError
            If it contradicts what is known of a point.
        """
        key = owner.tenant_id, schema_id
        # A clock that runs ahead must not make this description the latest for ever.
        described_us = min(max(birth.created_us, 0), time.time_ns() // 1000)
        if self._described.get(key, -1) >= described_us:
            return False
        new = registry.register_schema(self._conn, owner, birth.schema, described_us)
        self._described[key] = described_us
        return new

    def points(self, tenant_id: int, schema_id: bytes) -> SchemaPoints | None:
        """Points of a schema, if the tenant has it."""
        found = self._schemas.get((tenant_id, schema_id))
        if found is None:
            found = registry.schema_points(self._conn, tenant_id, schema_id)
            if found is not None:
                self._schemas[tenant_id, schema_id] = found
        return found
