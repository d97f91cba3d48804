"""Accounts with their revisions, and the plant models they were computed by.

Invariants

- Of each (site, process, carrier, period, start) at most one row is current: the latest revision.
- A row that is not final is updated in place; the figures of a final row never change again, a later change
  is a new revision beside it.
- Figures that come out the same leave every row as it is.
- Each row names the plant model and holds the inputs it was computed from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb

from cloud_ingest.store import sql
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.times import to_datetime

_SQL = sql.load("cloud_ingest.store", "accounts.sql")
_KEY, _FIRST_FIGURE = 4, 8

Key = tuple[str, str, str, int]
"""Process, carrier, period and start [µs UTC] of an account."""


@dataclass(frozen=True, slots=True)
class Model:
    """A stored version of a site's plant model.

    Attributes
    ----------
    plant_model_id
        Its id.
    digest
        SHA-256 of the document.
    factors
        Version of the factor tables it is used with.
    """

    plant_model_id: int
    digest: bytes
    factors: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What an account says; attributes as the columns of ``account``.

    Two equal ones are the same account, so that nothing is to be written.
    """

    ends_us: int
    use: Decimal | None
    unit: str
    coverage: float
    estimated_share: float | None
    product: str | None
    output: Decimal | None
    output_unit: str | None
    output_coverage: float | None
    output_estimated_share: float | None
    unit_use: float | None
    co2_kg: Decimal | None
    co2_kg_per_output: float | None
    factor: dict[str, Any] | None
    flags: list[str]
    notes: list[str]
    inputs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """Latest revision of an account."""

    account_id: int
    revision: int
    current: bool
    final: bool
    figures: Figures


@dataclass(frozen=True, slots=True)
class Written:
    """How many accounts a call of `write` added, updated in place, revised and withdrew."""

    added: int = 0
    updated: int = 0
    revised: int = 0
    withdrawn: int = 0


def tenant(conn: Connection, name: str) -> int:
    """Id of a tenant; it is registered if it is new."""
    conn.execute(_SQL["add_tenant"], {"name": name})
    row = conn.execute(_SQL["tenant"], {"name": name}).fetchone()
    assert row is not None
    return int(row[0])


def current_model(conn: Connection, tenant_id: int, site: str) -> Model | None:
    """Plant model that a site's accounts are computed by."""
    row = conn.execute(_SQL["current_model"], {"tenant_id": tenant_id, "site": site}).fetchone()
    return None if row is None else Model(*row)


def add_model(
    conn: Connection, tenant_id: int, site: str, digest: bytes, factors: str, timezone: str, document: str
) -> Model:
    """Make a version of a plant model the current one of its site."""
    columns = {
        "tenant_id": tenant_id,
        "site": site,
        "digest": digest,
        "factors": factors,
        "timezone": timezone,
        "document": document,
    }
    conn.execute(_SQL["retire_model"], columns)
    row = conn.execute(_SQL["add_model"], columns).fetchone()
    assert row is not None
    return Model(int(row[0]), digest, factors)


def hull(conn: Connection, tenant_id: int, site: str) -> list[tuple[int, int]]:
    """Starts of the first and last current account of a site [µs UTC]; empty if it has none."""
    first, last = conn.execute(_SQL["hull"], {"tenant_id": tenant_id, "site": site}).fetchall()[0]
    return [] if first is None else [(first, last)]


def latest(conn: Connection, tenant_id: int, site: str, periods: Sequence[tuple[str, int]]) -> dict[Key, Stored]:
    """Latest revision of every account of a site in some periods, each a name and a start [µs UTC]."""
    parameters = {
        "tenant_id": tenant_id,
        "site": site,
        "periods": [name for name, _ in periods],
        "starts": [start for _, start in periods],
    }
    rows = conn.execute(_SQL["latest"], parameters).fetchall()
    found = {}
    for row in rows:
        account_id, revision, current, final = row[_KEY:_FIRST_FIGURE]
        found[row[:_KEY]] = Stored(account_id, revision, current, final, Figures(*row[_FIRST_FIGURE:]))
    return found


def ended(conn: Connection, tenant_id: int, site: str, clock_us: int) -> dict[Key, int]:
    """Ends of the accounts that are not final although they ended by `clock_us` [µs UTC]."""
    rows = conn.execute(_SQL["ended"], {"tenant_id": tenant_id, "site": site, "clock": clock_us}).fetchall()
    return {row[:_KEY]: row[_KEY] for row in rows}


def write(
    conn: Connection,
    tenant_id: int,
    site: str,
    plant_model_id: int,
    stored: Mapping[Key, Stored],
    computed: Mapping[Key, tuple[Figures, bool]],
    withdrawn: Sequence[Key] = (),
) -> Written:
    """Bring accounts to what was computed.

    Parameters
    ----------
    conn
        Connection.
    tenant_id, site, plant_model_id
        Of all these accounts.
    stored
        Latest revisions as `latest` returned them in this transaction.
    computed
        Figures, and whether they are final.
    withdrawn
        Accounts that the plant model no longer has.
    """
    inserts: list[dict[str, Any]] = []
    updates: list[dict[str, Any]] = []
    superseded = [stored[key].account_id for key in withdrawn if stored[key].current]
    dropped = len(superseded)
    revised = 0
    for key, (figures, final) in computed.items():
        old = stored.get(key)
        if old is not None and old.current and old.figures == figures and old.final >= final:
            continue
        row = _row(figures) | {"final": final, "plant_model_id": plant_model_id}
        if old is not None and old.current and not old.final:
            updates.append(row | {"account_id": old.account_id})
            continue
        if old is not None and old.current:
            superseded.append(old.account_id)
        revised += old is not None
        process, carrier, period, start_us = key
        inserts.append(
            row
            | {
                "tenant_id": tenant_id,
                "site": site,
                "process": process,
                "carrier": carrier,
                "period": period,
                "start": to_datetime(start_us),
                "revision": 1 if old is None else old.revision + 1,
            }
        )
    if superseded:
        conn.execute(_SQL["supersede"], {"account_ids": superseded})
    with conn.cursor() as cursor:
        if updates:
            cursor.executemany(_SQL["update"], updates)
        if inserts:
            cursor.executemany(_SQL["insert"], inserts)
    return Written(len(inserts) - revised, len(updates), revised, dropped)


def _row(figures: Figures) -> dict[str, Any]:
    row = {item.name: getattr(figures, item.name) for item in fields(Figures)}
    row["ends"] = to_datetime(row.pop("ends_us"))
    row["factor"] = None if figures.factor is None else Jsonb(figures.factor)
    row["inputs"] = Jsonb(figures.inputs)
    return row
