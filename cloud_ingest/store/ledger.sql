-- insert --
-- Enter messages in the order of their keys; those that are there already return no row.
INSERT INTO ledger (agent_id, epoch, seq, kind, status, digest, readings, schema_id, first_at, last_at,
                    clock_synchronised)
SELECT * FROM unnest(
    %(agent_id)s::int[], %(epoch)s::uuid[], %(seq)s::bigint[], %(kind)s::smallint[], %(status)s::smallint[],
    %(digest)s::bytea[], %(readings)s::int[], %(schema_id)s::bytea[], %(first_at)s::timestamptz[],
    %(last_at)s::timestamptz[], %(clock_synchronised)s::boolean[]
) AS t (agent_id, epoch, seq, kind, status, digest, readings, schema_id, first_at, last_at, clock_synchronised)
ORDER BY t.agent_id, t.epoch, t.seq
ON CONFLICT (agent_id, epoch, seq) DO NOTHING
RETURNING batch_id, agent_id, epoch, seq

-- settled_before --
-- Keys that the ranges of their epochs hold, and whether as committed (else as dropped).
SELECT t.agent_id, t.epoch, t.seq, t.seq <@ e.committed
FROM unnest(%(agent_id)s::int[], %(epoch)s::uuid[], %(seq)s::bigint[]) AS t (agent_id, epoch, seq)
JOIN ledger_epoch e USING (agent_id, epoch)
WHERE t.seq <@ e.committed OR t.seq <@ e.dropped

-- withdraw --
-- Take back rows of this transaction.
DELETE FROM ledger WHERE batch_id = ANY(%(batch_ids)s)

-- entered_before --
-- Digests of keys that were there.
SELECT l.agent_id, l.epoch, l.seq, l.digest
FROM unnest(%(agent_id)s::int[], %(epoch)s::uuid[], %(seq)s::bigint[]) AS t (agent_id, epoch, seq)
JOIN ledger l USING (agent_id, epoch, seq)

-- amend --
-- Add dropped and disputed seqs.
INSERT INTO ledger_epoch AS e (agent_id, epoch, dropped, disputed, position)
SELECT t.agent_id, t.epoch, t.dropped::int8multirange, t.disputed::int8multirange, 1
FROM unnest(%(agent_id)s::int[], %(epoch)s::uuid[], %(dropped)s::text[], %(disputed)s::text[])
    AS t (agent_id, epoch, dropped, disputed)
ORDER BY t.agent_id, t.epoch
ON CONFLICT (agent_id, epoch) DO UPDATE SET
    dropped = e.dropped + excluded.dropped,
    disputed = e.disputed + excluded.disputed,
    position = e.position + 1,
    updated_at = clock_timestamp()

-- touch_epochs --
-- Make sure that the epochs have rows.
INSERT INTO ledger_epoch (agent_id, epoch)
SELECT * FROM unnest(%(agent_id)s::int[], %(epoch)s::uuid[]) AS t (agent_id, epoch)
ORDER BY t.agent_id, t.epoch
ON CONFLICT DO NOTHING

-- lock_epochs --
-- One folds at a time, in the order of keys.
SELECT FROM ledger_epoch e
JOIN unnest(%(agent_id)s::int[], %(epoch)s::uuid[]) AS t (agent_id, epoch) USING (agent_id, epoch)
ORDER BY e.agent_id, e.epoch
FOR UPDATE OF e

-- fold --
-- Count committed rows into the ranges. Rows that a replay holds are left for the next time.
WITH due AS (
    SELECT l.agent_id, l.epoch, l.seq
    FROM unnest(%(agent_id)s::int[], %(epoch)s::uuid[]) AS t (agent_id, epoch)
    JOIN ledger l USING (agent_id, epoch)
    WHERE NOT l.folded
    FOR UPDATE OF l SKIP LOCKED
), flipped AS (
    UPDATE ledger l SET folded = true FROM due d
    WHERE (l.agent_id, l.epoch, l.seq) = (d.agent_id, d.epoch, d.seq)
    RETURNING l.agent_id, l.epoch, l.seq
), news AS (
    SELECT agent_id, epoch, range_agg(int8range(seq, seq, '[]')) AS seqs FROM flipped GROUP BY agent_id, epoch
)
UPDATE ledger_epoch e SET
    committed = e.committed + n.seqs,
    position = e.position + 1,
    updated_at = clock_timestamp()
FROM news n
WHERE (e.agent_id, e.epoch) = (n.agent_id, n.epoch)

-- states --
-- What may be announced: committed or dropped, and not disputed.
SELECT e.agent_id, e.epoch, e.position, e.committed + e.dropped - e.disputed
FROM ledger_epoch e
JOIN unnest(%(agent_id)s::int[], %(epoch)s::uuid[]) AS t (agent_id, epoch) USING (agent_id, epoch)

-- unfolded --
-- Epochs with rows not counted yet.
SELECT DISTINCT agent_id, epoch FROM ledger WHERE NOT folded

-- remove --
-- Of the next rows by batch id remove those that are folded, stored and old. How many went, the last batch id that
-- was looked at, and whether rows as new as to stay were among them.
WITH next AS (
    SELECT agent_id, epoch, seq, batch_id,
           received_at < clock_timestamp() - make_interval(secs => %(keep_s)s) AS old
    FROM ledger WHERE batch_id > %(after)s ORDER BY batch_id LIMIT %(limit)s
), due AS (
    SELECT l.agent_id, l.epoch, l.seq
    FROM ledger l JOIN next n USING (agent_id, epoch, seq)
    WHERE n.old AND l.folded AND l.status = 0
    FOR UPDATE OF l SKIP LOCKED
), removed AS (
    DELETE FROM ledger l USING due d
    WHERE (l.agent_id, l.epoch, l.seq) = (d.agent_id, d.epoch, d.seq)
    RETURNING l.readings
), counted AS (
    UPDATE ledger_removed SET
        messages = messages + (SELECT count(*) FROM removed),
        readings = readings + (SELECT coalesce(sum(r.readings), 0) FROM removed r)
    WHERE EXISTS (SELECT FROM removed)
)
SELECT (SELECT count(*) FROM removed), max(batch_id), coalesce(bool_or(NOT old), false) FROM next

-- set_status --
-- What became of a parked message.
UPDATE ledger SET status = %(status)s, first_at = %(first_at)s, last_at = %(last_at)s
WHERE batch_id = %(batch_id)s

-- revive --
-- What became of a dead message; no row if it is not dead, or another content.
UPDATE ledger SET status = %(status)s, readings = %(readings)s, schema_id = %(schema_id)s, first_at = %(first_at)s,
    last_at = %(last_at)s, clock_synchronised = %(clock_synchronised)s
WHERE (agent_id, epoch, seq) = (%(agent_id)s, %(epoch)s, %(seq)s) AND digest = %(digest)s AND status = 2
RETURNING batch_id

-- holds --
-- Whether a message with this content is there.
SELECT 1 FROM ledger
WHERE (agent_id, epoch, seq) = (%(agent_id)s, %(epoch)s, %(seq)s) AND digest = %(digest)s
