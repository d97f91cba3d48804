"""Tenants, sites and agents by hand: add, list, disable, enable.

Invariants

- Nothing is deleted: what was added stays, and can be disabled.
- Every change raises the registry's version in its own transaction, so that workers notice at their next flush.
- Each call may be repeated: what is so already stays so.
"""

from __future__ import annotations

from typing import Any, Literal

from psycopg.rows import dict_row

from cloud_ingest.errors import UnknownNameError
from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection

_SQL = sql.load("cloud_ingest.store", "administration.sql")

Kind = Literal["tenant", "site", "agent"]


def add(conn: Connection, kind: Kind, tenant: str, name: str) -> bool:
    """Add a tenant, or a site or an agent of one. Commits.

    Parameters
    ----------
    conn
        A connection outside a transaction.
    kind
        What to add.
    tenant, name
        Names; of a tenant both are the same.

    Returns
    -------
    bool
        Whether it is new.

    Raises
    ------
    UnknownNameError
        If there is no such tenant to add to.
    """
    with conn.transaction():
        if kind != "tenant":
            _find(conn, "tenant", tenant, tenant)
        added = conn.execute(_SQL[f"add_{kind}"], {"tenant": tenant, "name": name}).rowcount > 0
        if added:
            conn.execute(_SQL["changed"])
    return added


def set_disabled(conn: Connection, kind: Kind, tenant: str, name: str, *, disabled: bool) -> bool:
    """Disable or enable. Commits.

    Returns
    -------
    bool
        Whether this changed anything.

    Raises
    ------
    UnknownNameError
        If there is no such tenant, site or agent.
    """
    with conn.transaction():
        ident = _find(conn, kind, tenant, name)
        changed = conn.execute(_SQL[f"set_{kind}"], {"ident": ident, "disabled": disabled}).rowcount > 0
        if changed:
            conn.execute(_SQL["changed"])
    return changed


def listing(conn: Connection, kind: Kind) -> list[dict[str, Any]]:
    """All of a kind by name, each as a JSON document."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_SQL[f"list_{kind}"]).fetchall()


def _find(conn: Connection, kind: Kind, tenant: str, name: str) -> int:
    row = conn.execute(_SQL[f"find_{kind}"], {"tenant": tenant, "name": name}).fetchone()
    if row is not None:
        return int(row[0])
    known = [item["name"] for item in listing(conn, kind) if item.get("tenant", tenant) == tenant]
    whose = "" if kind == "tenant" else f" of tenant {tenant!r}"
    add_it = name if kind == "tenant" else f"{tenant} {name}"
    raise UnknownNameError(
        f"there is no {kind} {name!r}{whose}; allowed: {', '.join(known) or 'none yet'};"
        f" add it by: cloud-ingest {kind} add INGEST_TOML {add_it}"
    )
