-- add_tenant --
-- A tenant, unless it is there.
INSERT INTO tenant (name) SELECT %(name)s WHERE NOT EXISTS (SELECT FROM tenant WHERE name = %(name)s)
ON CONFLICT DO NOTHING

-- tenant --
-- Id of a tenant.
SELECT tenant_id FROM tenant WHERE name = %(name)s

-- current_model --
-- Plant model that a site's accounts are computed by.
SELECT plant_model_id, digest, factors FROM plant_model
WHERE tenant_id = %(tenant_id)s AND site = %(site)s AND current

-- retire_model --
-- The current model of a site is so no longer.
UPDATE plant_model SET current = false WHERE tenant_id = %(tenant_id)s AND site = %(site)s AND current

-- add_model --
-- A new version of a site's plant model.
INSERT INTO plant_model (tenant_id, site, digest, factors, timezone, document)
VALUES (%(tenant_id)s, %(site)s, %(digest)s, %(factors)s, %(timezone)s, %(document)s)
RETURNING plant_model_id

-- hull --
-- Starts of the first and last current account of a site.
SELECT (extract(epoch FROM min(start)) * 1000000)::bigint, (extract(epoch FROM max(start)) * 1000000)::bigint
FROM account WHERE tenant_id = %(tenant_id)s AND site = %(site)s AND current

-- latest --
-- Latest revision of every account of a site in some periods.
SELECT DISTINCT ON (a.period, a.start, a.process, a.carrier)
       a.process, a.carrier, a.period, (extract(epoch FROM a.start) * 1000000)::bigint,
       a.account_id, a.revision, a.current, a.final,
       (extract(epoch FROM a.ends) * 1000000)::bigint, a.use, a.unit, a.coverage, a.estimated_share,
       a.product, a.output, a.output_unit, a.output_coverage, a.output_estimated_share,
       a.unit_use, a.co2_kg, a.co2_kg_per_output, a.factor, a.flags, a.notes, a.inputs
FROM unnest(%(periods)s::text[], %(starts)s::bigint[]) AS w (period, start_us)
JOIN account a ON a.tenant_id = %(tenant_id)s AND a.site = %(site)s AND a.period = w.period
              AND a.start = timestamptz 'epoch' + w.start_us * interval '1 microsecond'
ORDER BY a.period, a.start, a.process, a.carrier, a.revision DESC

-- ended --
-- Accounts that are not final although their interval is over.
SELECT process, carrier, period, (extract(epoch FROM start) * 1000000)::bigint,
       (extract(epoch FROM ends) * 1000000)::bigint
FROM account
WHERE tenant_id = %(tenant_id)s AND site = %(site)s AND current AND NOT final
  AND ends <= timestamptz 'epoch' + %(clock)s::bigint * interval '1 microsecond'

-- insert --
-- A new account, or a new revision of one.
INSERT INTO account (
    tenant_id, site, process, carrier, period, start, ends, revision, current, final, use, unit, coverage,
    estimated_share, product, output, output_unit, output_coverage, output_estimated_share, unit_use, co2_kg,
    co2_kg_per_output, factor, flags, notes, inputs, plant_model_id
) VALUES (
    %(tenant_id)s, %(site)s, %(process)s, %(carrier)s, %(period)s, %(start)s, %(ends)s, %(revision)s, true, %(final)s,
    %(use)s, %(unit)s, %(coverage)s, %(estimated_share)s, %(product)s, %(output)s, %(output_unit)s,
    %(output_coverage)s, %(output_estimated_share)s, %(unit_use)s, %(co2_kg)s, %(co2_kg_per_output)s, %(factor)s,
    %(flags)s, %(notes)s, %(inputs)s, %(plant_model_id)s
)

-- update --
-- A row that is not final yet takes new figures.
UPDATE account SET
    ends = %(ends)s, final = %(final)s, use = %(use)s, unit = %(unit)s, coverage = %(coverage)s,
    estimated_share = %(estimated_share)s, product = %(product)s, output = %(output)s, output_unit = %(output_unit)s,
    output_coverage = %(output_coverage)s, output_estimated_share = %(output_estimated_share)s,
    unit_use = %(unit_use)s, co2_kg = %(co2_kg)s, co2_kg_per_output = %(co2_kg_per_output)s, factor = %(factor)s,
    flags = %(flags)s, notes = %(notes)s, inputs = %(inputs)s, plant_model_id = %(plant_model_id)s,
    computed_at = clock_timestamp()
WHERE account_id = %(account_id)s AND NOT final

-- supersede --
-- Rows that are no longer the latest word.
UPDATE account SET current = false WHERE account_id = ANY(%(account_ids)s)
