-- add --
-- Readings with times that can't be.
INSERT INTO quarantine (batch_id, point_id, at_us, value, quality, reason)
SELECT t.*, %(reason)s
FROM unnest(
    %(batch_id)s::bigint[], %(point_id)s::int[], %(at_us)s::bigint[], %(value)s::text[], %(quality)s::smallint[]
) AS t

-- newest --
-- Readings by descending id.
SELECT q.id, q.state, q.batch_id, t.name AS tenant, a.name AS agent, p.name AS point, q.at_us, q.value, q.quality,
       q.reason, q.quarantined_at
FROM quarantine q
JOIN point p USING (point_id)
JOIN tenant t USING (tenant_id)
LEFT JOIN ledger l USING (batch_id)
LEFT JOIN agent a ON a.agent_id = l.agent_id
WHERE q.state = %(state)s
  AND (%(below)s::bigint IS NULL OR q.id < %(below)s)
  AND (%(tenant)s::text IS NULL OR t.name = %(tenant)s)
  AND (%(agent)s::text IS NULL OR a.name = %(agent)s)
  AND (%(point)s::text IS NULL OR p.name = %(point)s)
ORDER BY q.id DESC
LIMIT %(limit)s

-- find --
-- One reading.
SELECT q.id, q.state, q.batch_id, t.name AS tenant, a.name AS agent, p.name AS point, q.at_us, q.value, q.quality,
       q.reason, q.quarantined_at
FROM quarantine q
JOIN point p USING (point_id)
JOIN tenant t USING (tenant_id)
LEFT JOIN ledger l USING (batch_id)
LEFT JOIN agent a ON a.agent_id = l.agent_id
WHERE q.id = %(id)s

-- idents --
-- Ids of readings, ascending.
SELECT q.id
FROM quarantine q
JOIN point p USING (point_id)
JOIN tenant t USING (tenant_id)
LEFT JOIN ledger l USING (batch_id)
LEFT JOIN agent a ON a.agent_id = l.agent_id
WHERE q.state = %(state)s
  AND (%(tenant)s::text IS NULL OR t.name = %(tenant)s)
  AND (%(agent)s::text IS NULL OR a.name = %(agent)s)
  AND (%(point)s::text IS NULL OR p.name = %(point)s)
ORDER BY q.id

-- releasable --
-- Held readings with possible times, and what their tables need.
SELECT q.id, q.batch_id, q.point_id, p.value_type, q.at_us, q.value, q.quality, p.tenant_id
FROM quarantine q JOIN point p USING (point_id)
WHERE q.id = ANY(%(ids)s::bigint[]) AND q.state = 'held' AND q.at_us BETWEEN %(first_us)s AND %(last_us)s
ORDER BY q.id

-- lock_held --
-- Those of some readings that nobody has decided on; nobody else will, meanwhile.
SELECT id FROM quarantine WHERE id = ANY(%(ids)s::bigint[]) AND state = 'held' ORDER BY id FOR UPDATE

-- settle --
-- What became of readings.
UPDATE quarantine SET state = %(state)s, action_id = %(action_id)s WHERE id = ANY(%(ids)s::bigint[])
