-- tenant --
-- Id of a tenant.
SELECT tenant_id FROM tenant WHERE name = %(name)s

-- points --
-- A page of points by name.
SELECT name, site, device, tag, quantity, unit, kind, medium, value_type, definition
FROM point
WHERE tenant_id = %(tenant_id)s AND name > %(after)s
  AND (%(site)s::text IS NULL OR site = %(site)s)
  AND (%(device)s::text IS NULL OR device = %(device)s)
  AND (%(tag)s::text IS NULL OR tag = %(tag)s)
  AND (%(quantity)s::text IS NULL OR quantity = %(quantity)s)
  AND (%(kind)s::text IS NULL OR kind = %(kind)s)
  AND (%(medium)s::text IS NULL OR medium = %(medium)s)
ORDER BY name
LIMIT %(limit)s

-- points_by_name --
-- Ids, units and value types of points.
SELECT name, point_id, unit, value_type FROM point WHERE tenant_id = %(tenant_id)s AND name = ANY(%(names)s)

-- accounts --
-- A page of accounts with the time zone and the digest of the plant model they were computed by.
SELECT a.site, a.process, a.carrier, a.period, (extract(epoch FROM a.start) * 1000000)::bigint,
       (extract(epoch FROM a.ends) * 1000000)::bigint, a.revision, a.current, a.final, a.use::float8, a.unit,
       a.coverage, a.estimated_share, a.product, a.output::float8, a.output_unit, a.output_coverage,
       a.output_estimated_share, a.unit_use, a.co2_kg::float8, a.co2_kg_per_output, a.factor, a.flags, a.notes,
       a.inputs, encode(m.digest, 'hex'), m.timezone, (extract(epoch FROM a.computed_at) * 1000000)::bigint
FROM account a JOIN plant_model m USING (plant_model_id)
WHERE a.tenant_id = %(tenant_id)s
  AND (a.start, a.site, a.process, a.carrier, a.period, a.revision)
      > (timestamptz 'epoch' + %(after_us)s::bigint * interval '1 microsecond', %(after_site)s::text,
         %(after_process)s::text, %(after_carrier)s::text, %(after_period)s::text, %(after_revision)s::int)
  AND (%(from_us)s::bigint IS NULL OR a.start >= timestamptz 'epoch' + %(from_us)s::bigint * interval '1 microsecond')
  AND (%(to_us)s::bigint IS NULL OR a.start < timestamptz 'epoch' + %(to_us)s::bigint * interval '1 microsecond')
  AND (%(site)s::text IS NULL OR a.site = %(site)s)
  AND (%(process)s::text IS NULL OR a.process = %(process)s)
  AND (%(carrier)s::text IS NULL OR a.carrier = %(carrier)s)
  AND (%(period)s::text IS NULL OR a.period = %(period)s)
  AND (%(revisions)s OR a.current)
ORDER BY a.start, a.site, a.process, a.carrier, a.period, a.revision
LIMIT %(limit)s

-- agents --
-- Agents of a tenant, with the time of the latest message of each.
SELECT a.name, a.state, (extract(epoch FROM a.state_at) * 1000000)::bigint, a.software, a.detail,
       (extract(epoch FROM (SELECT max(e.updated_at) FROM ledger_epoch e WHERE e.agent_id = a.agent_id)) * 1000000)::bigint
FROM agent a
WHERE a.tenant_id = %(tenant_id)s
ORDER BY a.name

-- counts --
-- Sizes of what waits for somebody, each counted up to a bound.
SELECT (SELECT count(*) FROM (SELECT FROM parked LIMIT %(most)s) AS p),
       (SELECT count(*) FROM (SELECT FROM dead_letter LIMIT %(most)s) AS d),
       (SELECT count(*) FROM (SELECT FROM account WHERE current AND NOT final LIMIT %(most)s) AS o)

-- ledger --
-- Messages and readings that were stored, those with ledger rows removed since included.
SELECT count(*) + (SELECT messages FROM ledger_removed),
       coalesce(sum(readings), 0)::bigint + (SELECT readings FROM ledger_removed)
FROM ledger WHERE status = 0

-- ping --
-- Whether the database answers.
SELECT 1
