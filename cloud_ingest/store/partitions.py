"""Native range partitions of the reading tables, made on demand and ahead; hypertables need none of this.

Invariants

- A partition is made in a short transaction of its own, under an advisory lock, and attached, which does not
  stop writers of other partitions.
- Partitions never overlap, also when the width was changed: a new one takes the free room around its time.
- What is known is remembered; `forget` after an error that says otherwise.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.sql import SQL, Identifier, Literal

from cloud_ingest.store import editions, sql
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.times import to_datetime
from protocols.reading import VALUE_TYPES, ValueType

_log = logging.getLogger(__name__)
_SQL = sql.load("cloud_ingest.store", "partitions.sql")
_LOCK = 0x6D65_7465_7200_0002
DAY_US = 86_400_000_000


class Partitions:
    """What one connection knows of the partitions.

    Parameters
    ----------
    conn
        The connection; outside a transaction whenever `ensure` is called.
    width_days
        Span of a new partition, or of a new chunk of a hypertable.
    """

    def __init__(self, conn: Connection, width_days: int) -> None:
        self._conn = conn
        self._width_us = width_days * DAY_US
        self._native = editions.detect(conn) is editions.Edition.PLAIN
        conn.commit()
        self._known: dict[ValueType, list[tuple[int, int]]] = {}

    def ensure(self, value_type: ValueType, times_us: NDArray[np.int64] | Sequence[int]) -> None:
        """Make sure that readings of these times [µs UTC] have a partition to go to."""
        if not self._native:
            return
        times = np.asarray(times_us, np.int64)
        while len(times := self._uncovered(value_type, times)):
            self._make(value_type, int(times[0]))

    def ensure_ahead(self, now_us: int) -> None:
        """Make the partitions of now and of one width ahead for all reading tables."""
        for value_type in VALUE_TYPES:
            self.ensure(value_type, [now_us, now_us + self._width_us])

    def forget(self) -> None:
        """Ask the database again at the next `ensure`."""
        self._known.clear()

    def _uncovered(self, value_type: ValueType, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the times that no known partition takes."""
        known = self._known.get(value_type)
        if not known:
            return times
        firsts, ends = np.array(known, np.int64).T
        place = np.searchsorted(firsts, times, side="right") - 1
        uncovered: NDArray[np.int64] = times[(place < 0) | (times >= ends[place])]
        return uncovered

    def _make(self, value_type: ValueType, at_us: int) -> None:
        with self._conn.transaction():
            self._conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            ranges = self._read(value_type)
            self._known[value_type] = ranges
            if any(first <= at_us < end for first, end in ranges):
                return
            first_us = at_us // self._width_us * self._width_us
            end_us = first_us + self._width_us
            for start, end in ranges:
                if end <= at_us:
                    first_us = max(first_us, end)
                else:
                    end_us = min(end_us, start)
                    break
            name = f"reading_{value_type}_{to_datetime(first_us):%Y%m%dt%H%M%S}"
            parts: dict[str, Any] = {
                "table": Identifier(f"reading_{value_type}"),
                "partition": Identifier(name),
                "first": Literal(to_datetime(first_us).isoformat()),
                "end": Literal(to_datetime(end_us).isoformat()),
            }
            self._conn.execute(_SQL["make"].format(**parts))
        bisect.insort(ranges, (first_us, end_us))
        _log.info("partition %s made", name, extra={"partition": name})

    def _read(self, value_type: ValueType) -> list[tuple[int, int]]:
        rows = self._conn.execute(_SQL["ranges"], {"table": f"reading_{value_type}"}).fetchall()
        return sorted((int(first), int(end)) for first, end in rows)


def set_chunk_width(conn: Connection, width_days: int) -> None:
    """Tell the hypertables how wide new chunks are to be; nothing on plain PostgreSQL."""
    if editions.detect(conn) is editions.Edition.PLAIN:
        return
    for value_type in VALUE_TYPES:
        conn.execute(
            SQL("SELECT set_chunk_time_interval({}, make_interval(days => %s))").format(
                Literal(f"reading_{value_type}")
            ),
            (width_days,),
        )
