"""Dead letters go through the normal path once more, each in a transaction of its own.

Invariants

- A letter is removed only in the transaction that stores its message; the ledger sees to it that this happens
  once, whoever replays it and however often the message comes again meanwhile.
- A rehearsal does everything that a replay does, and takes it back.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from cloud_ingest.errors import ContentionError
from cloud_ingest.ingest.decode import Parsed, parse
from cloud_ingest.ingest.write import Flush, Revival
from cloud_ingest.ingest.writer import DATA_ERRORS
from cloud_ingest.store import letters
from cloud_ingest.store.actions import Operator
from cloud_ingest.store.pool import Connection

_ATTEMPTS = 5
"""Most tries where another transaction is in the way."""


def revive(conn: Connection, flush: Flush, ident: int, operator: Operator) -> Revival:
    """Replay one letter.

    Parameters
    ----------
    conn, flush
        A connection in autocommit mode, and what writes through it.
    ident
        The letter.
    operator
        Who does it.

    Raises
    ------
    psycopg.Error
        If the database is gone.
    ContentionError
        If others are in the way again and again.
    """
    found = letters.find(conn, ident)
    if found is None:
        return Revival(ident, "gone")
    letter, payload = found
    return _revive(flush, ident, parse(letter.topic, payload), operator)


def rehearse(conn: Connection, make_flush: Callable[[], Flush], ident: int, operator: Operator) -> Revival:
    """What `revive` would do with one letter; nothing of it stays."""
    # Used once: it remembers registrations that are taken back.
    flush = make_flush()
    with conn.transaction(force_rollback=True):
        return revive(conn, flush, ident, operator)


def _revive(flush: Flush, ident: int, message: Parsed, operator: Operator) -> Revival:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return flush.revive(ident, message, operator)
        except psycopg.errors.CheckViolation:
            # No partition for a row although one was known: somebody removed it.
            if attempt == _ATTEMPTS:
                raise
            flush.partitions.forget()
        except (ContentionError, psycopg.errors.DeadlockDetected):
            if attempt == _ATTEMPTS:
                raise
        except DATA_ERRORS as error:
            message = message.killed("poison", f"{type(error).__name__}: {error}")
    raise ContentionError(f"dead letter {ident}: not settled in {_ATTEMPTS} tries")
