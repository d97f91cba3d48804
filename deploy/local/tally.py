"""Counting what arrived: every reading the agent put in its buffer, against every row in the database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import psycopg

_STORED = """
WITH rows AS (
    SELECT point_id, at, batch_id FROM reading_float
    UNION ALL SELECT point_id, at, batch_id FROM reading_int
    UNION ALL SELECT point_id, at, batch_id FROM reading_bool
    UNION ALL SELECT point_id, at, batch_id FROM reading_text
)
SELECT (SELECT count(*) FROM rows),
       (SELECT coalesce(sum(n - 1), 0)::bigint FROM (SELECT count(*) AS n FROM rows GROUP BY point_id, at) AS g),
       (SELECT count(*) FROM ledger l
         WHERE l.kind = 0 AND l.status = 0
           AND l.readings <> (SELECT count(*) FROM rows r WHERE r.batch_id = l.batch_id)
                           + (SELECT count(*) FROM quarantine q
                               WHERE q.batch_id = l.batch_id AND q.state <> 'released')),
       (SELECT count(*) FROM quarantine WHERE state <> 'released'),
       (SELECT count(*) FROM parked),
       (SELECT count(*) FROM dead_letter),
       (SELECT coalesce(sum(readings), 0)::bigint FROM gap)
"""


@dataclass(frozen=True)
class Tally:
    """Readings on both ends of the pipeline.

    Attributes
    ----------
    sent
        Readings that agents committed to their buffers.
    stored
        Rows in the reading tables.
    duplicated
        Rows beyond the first of one point at one time.
    uneven_batches
        Batches whose rows are not as many as their ledger entry says.
    quarantined
        Readings set apart for their absurd time.
    parked, dead_letters
        Messages set apart, undecided.
    declared_lost
        Readings that gap records own up to.
    """

    sent: int
    stored: int
    duplicated: int
    uneven_batches: int
    quarantined: int
    parked: int
    dead_letters: int
    declared_lost: int

    @property
    def lost(self) -> int:
        """Readings that are nowhere, and that no gap record declares."""
        return self.sent - self.stored - self.quarantined - self.declared_lost

    @property
    def clean(self) -> bool:
        """Whether each reading that was sent is stored, exactly once."""
        return self.sent == self.stored and not (self.duplicated or self.uneven_batches)


def tally(dsn: str, sent: int) -> Tally:
    """Count the rows of a database against the readings sent."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(_STORED).fetchone()
    if row is None:
        raise psycopg.DataError("the count came back without a row")
    return Tally(sent, *(int(n) for n in row))


def readings_sent(agent_report: Path) -> int:
    """Readings that an agent says it committed to its buffer, over all its starts."""
    return int(json.loads(agent_report.read_text())["readings_appended"])
