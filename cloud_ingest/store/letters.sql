-- add --
-- A dead letter, or one more arrival of it.
INSERT INTO dead_letter AS d (tenant, agent, topic, kind, reason, digest, payload, batch_id, times)
VALUES (%(tenant)s, %(agent)s, %(topic)s, %(kind)s, %(reason)s, %(digest)s, %(payload)s, %(batch_id)s, %(times)s)
ON CONFLICT (topic, digest) DO UPDATE SET
    times = d.times + excluded.times,
    last_at = clock_timestamp(),
    kind = excluded.kind,
    reason = excluded.reason,
    batch_id = coalesce(excluded.batch_id, d.batch_id)

-- newest --
-- Letters by descending id.
SELECT id, tenant, agent, topic, kind, reason, batch_id, first_at, last_at, times, octet_length(payload) AS size
FROM dead_letter
WHERE %(below)s::bigint IS NULL OR id < %(below)s
ORDER BY id DESC
LIMIT %(limit)s

-- find --
-- One letter.
SELECT id, tenant, agent, topic, kind, reason, batch_id, first_at, last_at, times, octet_length(payload) AS size
FROM dead_letter
WHERE id = %s

-- payload --
-- Bytes of a letter.
SELECT payload FROM dead_letter WHERE id = %s
