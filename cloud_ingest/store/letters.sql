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
WHERE (%(below)s::bigint IS NULL OR id < %(below)s)
  AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND (%(agent)s::text IS NULL OR agent = %(agent)s)
  AND (%(kind)s::text IS NULL OR kind = %(kind)s)
  AND (%(reason)s::text IS NULL OR strpos(lower(reason), lower(%(reason)s)) > 0)
ORDER BY id DESC
LIMIT %(limit)s

-- idents --
-- Ids of letters, ascending.
SELECT id
FROM dead_letter
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND (%(agent)s::text IS NULL OR agent = %(agent)s)
  AND (%(kind)s::text IS NULL OR kind = %(kind)s)
  AND (%(reason)s::text IS NULL OR strpos(lower(reason), lower(%(reason)s)) > 0)
ORDER BY id

-- find --
-- One letter.
SELECT id, tenant, agent, topic, kind, reason, batch_id, first_at, last_at, times, octet_length(payload) AS size
FROM dead_letter
WHERE id = %s

-- payload --
-- Bytes of a letter.
SELECT payload FROM dead_letter WHERE id = %s

-- renew --
-- Why a letter can still not be stored.
UPDATE dead_letter SET
    times = times + 1,
    last_at = clock_timestamp(),
    kind = %(kind)s,
    reason = %(reason)s,
    batch_id = coalesce(%(batch_id)s, batch_id)
WHERE id = %(id)s

-- remove --
-- Remove a letter; what was known of it, but for its bytes.
DELETE FROM dead_letter WHERE id = %s
RETURNING jsonb_build_object(
    'id', id, 'tenant', tenant, 'agent', agent, 'topic', topic, 'kind', kind, 'reason', reason,
    'digest', encode(digest, 'hex'), 'size', octet_length(payload), 'first_at', first_at, 'last_at', last_at,
    'times', times, 'batch_id', batch_id)
