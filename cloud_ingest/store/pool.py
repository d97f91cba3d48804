"""Connections to the database, with the limits that keep one stuck user from stopping the others.

Invariants

- Every connection has a name that `pg_stat_activity` shows, a statement timeout, and an idle-in-transaction
  timeout: a forgotten transaction would hold back the change feed for every follower.
- ``synchronous_commit`` is on: what is acknowledged after a commit survives a crash of the database.
- Dead peers are noticed by TCP keep-alive and user timeout, since a cancelled wait on a half-open socket may
  never return.
- The session's time zone is UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import ConnectionPool

Connection = psycopg.Connection[tuple[Any, ...]]
Pool = ConnectionPool[Connection]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take on a connection.

    Attributes
    ----------
    connect_s, statement_s, lock_s, idle_in_transaction_s
        Timeouts [s].
    """

    connect_s: int = 10
    statement_s: float = 120.0
    lock_s: float = 60.0
    idle_in_transaction_s: float = 60.0


DEFAULT_LIMITS = Limits()


def conninfo(dsn: str, name: str, limits: Limits = DEFAULT_LIMITS) -> str:
    """Connection string with the name and the limits added to what `dsn` says."""
    given = conninfo_to_dict(dsn)
    options = [
        str(given.get("options") or ""),
        f"-c statement_timeout={round(limits.statement_s * 1000)}",
        f"-c lock_timeout={round(limits.lock_s * 1000)}",
        f"-c idle_in_transaction_session_timeout={round(limits.idle_in_transaction_s * 1000)}",
        "-c synchronous_commit=on",
        "-c timezone=UTC",
    ]
    return make_conninfo(
        dsn,
        application_name=name,
        connect_timeout=limits.connect_s,
        keepalives_idle=30,
        keepalives_interval=10,
        keepalives_count=3,
        tcp_user_timeout=60_000,
        options=" ".join(options).strip(),
    )


def connect(dsn: str, name: str, limits: Limits = DEFAULT_LIMITS, *, autocommit: bool = False) -> Connection:
    """Open one connection.

    Parameters
    ----------
    dsn
        Connection string or URI.
    name
        What `pg_stat_activity` shows, such as ``cloud-ingest writer 1``.
    limits
        Timeouts.
    autocommit
        As in psycopg.
    """
    return psycopg.connect(conninfo(dsn, name, limits), autocommit=autocommit)


def make_pool(dsn: str, name: str, size: int, limits: Limits = DEFAULT_LIMITS) -> Pool:
    """Pool of up to `size` connections; not open yet: use ``with pool:`` or ``pool.open()`` and ``close()``."""
    return ConnectionPool(
        conninfo(dsn, name, limits),
        connection_class=psycopg.Connection[tuple[Any, ...]],
        min_size=1,
        max_size=size,
        check=ConnectionPool.check_connection,
        open=False,
        name=name,
    )
