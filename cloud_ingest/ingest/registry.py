"""What one connection knows of tenants, sites, agents and schemas, so that a flush need not ask.

Invariants

- Nothing remembered outlives the incarnation it was read in, nor the connection: after a restore an id may
  belong to somebody else.
- What is added, disabled or enabled by hand is noticed by the next flush: nothing remembered of it outlives the
  registry's version, and that somebody is unknown is not remembered beyond a flush.
- A sender that is barred is told apart before anything of it is registered.
"""

from __future__ import annotations

import time

from cloud_ingest.errors import BarredError, ContentionError
from cloud_ingest.ingest.config import Registration
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
    registration
        Whether those that are new are registered.
    """

    def __init__(self, conn: Connection, registration: Registration = "automatic") -> None:
        self._conn = conn
        self._automatic = registration == "automatic"
        self._incarnation: Incarnation = incarnation.current(conn)
        self._version = registry.version(conn)
        self._agents: dict[tuple[str, str], Agent] = {}
        self._unknown: set[tuple[str, str]] = set()
        self._sites: dict[tuple[int, str], bool] = {}
        self._schemas: dict[tuple[int, bytes], SchemaPoints] = {}
        self._described: dict[tuple[int, bytes], int] = {}

    def verify(self) -> None:
        """Make sure, inside the transaction that uses what is remembered, that it still holds.

        Raises
        ------
        ContentionError
            If the database was restored or the registry changed by hand in the meantime; what may no longer hold
            is forgotten.
        """
        self._unknown.clear()
        now, version = incarnation.current(self._conn), registry.version(self._conn)
        if (now, version) != (self._incarnation, self._version):
            restored = now != self._incarnation
            self._agents.clear()
            self._sites.clear()
            if restored:
                self._schemas.clear()
                self._described.clear()
            self._incarnation, self._version = now, version
            raise ContentionError(f"the {'database was restored' if restored else 'registry changed'} under a flush")

    def agent(self, tenant: str, name: str) -> Agent:
        """Find or register an agent, disabled or not.

        Raises
        ------
        BarredError
            If it is not registered, and not to be.
        """
        key = tenant, name
        found = self._agents.get(key)
        if found is None and key not in self._unknown:
            if self._automatic:
                found = registry.agent(self._conn, tenant, name)
            else:
                found = registry.find_agent(self._conn, tenant, name)
            if found is None:
                self._unknown.add(key)
            else:
                self._agents[key] = found
        if found is None:
            raise BarredError(
                "unregistered",
                f"agent {name!r} of tenant {tenant!r} is not registered; add it by:"
                f" cloud-ingest tenant add INGEST_TOML {tenant}; cloud-ingest agent add INGEST_TOML {tenant} {name}",
            )
        return found

    def admit(self, sender: Agent) -> None:
        """Make sure that messages are taken from an agent.

        Raises
        ------
        BarredError
            If it or its tenant is disabled.
        """
        if sender.disabled:
            name = sender.tenant if sender.disabled == "tenant" else f"{sender.tenant} {sender.name}"
            raise BarredError(
                "disabled",
                f"{sender.disabled} {name!r} is disabled; enable it by:"
                f" cloud-ingest {sender.disabled} enable INGEST_TOML {name}",
            )

    def admit_site(self, sender: Agent, site: str) -> None:
        """Make sure that births and readings of a site are taken.

        Raises
        ------
        BarredError
            If it is disabled, or not registered and not to be.
        """
        key = sender.tenant_id, site
        enabled = self._sites.get(key)
        if enabled is None:
            enabled = registry.site_enabled(self._conn, *key)
            if enabled is not None:
                self._sites[key] = enabled
        whole = f"{sender.tenant} {site}"
        if enabled is None and not self._automatic:
            raise BarredError(
                "unregistered",
                f"site {site!r} of tenant {sender.tenant!r} is not registered; add it by:"
                f" cloud-ingest site add INGEST_TOML {whole}",
            )
        if enabled is False:
            raise BarredError(
                "disabled", f"site {whole!r} is disabled; enable it by: cloud-ingest site enable INGEST_TOML {whole}"
            )

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
