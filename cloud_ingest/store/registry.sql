-- find_agent --
-- An agent by tenant and name, and which of both is disabled.
SELECT a.agent_id, a.tenant_id,
       CASE WHEN t.disabled_at IS NOT NULL THEN 'tenant' WHEN a.disabled_at IS NOT NULL THEN 'agent' ELSE '' END
FROM agent a JOIN tenant t USING (tenant_id)
WHERE t.name = %s AND a.name = %s

-- version --
-- Grows with every change by hand.
SELECT version FROM registry_version

-- find_site --
-- Whether a site is enabled; no row: there is none.
SELECT disabled_at IS NULL FROM site WHERE tenant_id = %s AND name = %s

-- add_site --
-- A site, unless it is there.
INSERT INTO site (tenant_id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING

-- add_tenant --
-- A tenant, unless it is there.
INSERT INTO tenant (name) VALUES (%s) ON CONFLICT DO NOTHING

-- add_agent --
-- An agent, unless it is there.
INSERT INTO agent (tenant_id, name) SELECT tenant_id, %s FROM tenant WHERE name = %s ON CONFLICT DO NOTHING

-- lock_tenant --
-- Births of one tenant take turns.
SELECT pg_advisory_xact_lock(%s, %s)

-- find_points --
-- What can't change of points that exist.
SELECT name, quantity, unit, kind, medium, value_type FROM point WHERE tenant_id = %s AND name = ANY(%s)

-- upsert_points --
-- New points, and the latest description of those that exist.
INSERT INTO point AS p (tenant_id, site, device, tag, quantity, unit, kind, medium, value_type, definition, described_at)
SELECT %(tenant_id)s, %(site)s, t.*, %(described_at)s
FROM unnest(
    %(device)s::text[], %(tag)s::text[], %(quantity)s::text[], %(unit)s::text[], %(kind)s::text[],
    %(medium)s::text[], %(value_type)s::text[], %(definition)s::jsonb[]
) AS t
ON CONFLICT (tenant_id, name) DO UPDATE SET
    definition = excluded.definition, described_at = excluded.described_at
WHERE excluded.described_at >= p.described_at

-- add_schema --
-- A schema, unless it is there.
INSERT INTO schema (tenant_id, schema_id, agent_id, document) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING

-- add_schema_points --
-- The points of a schema by index.
INSERT INTO schema_point (tenant_id, schema_id, idx, point_id)
SELECT %(tenant_id)s, %(schema_id)s, n.place - 1, p.point_id
FROM unnest(%(names)s::text[]) WITH ORDINALITY AS n (name, place)
JOIN point p ON p.tenant_id = %(tenant_id)s AND p.name = n.name
ON CONFLICT DO NOTHING

-- schema_points --
-- Points of a schema in the order of their index.
SELECT s.point_id, p.value_type, p.name
FROM schema_point s JOIN point p USING (point_id)
WHERE s.tenant_id = %s AND s.schema_id = %s
ORDER BY s.idx
