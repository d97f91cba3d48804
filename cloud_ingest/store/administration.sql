-- changed --
-- Let workers forget what they remember.
UPDATE registry_version SET version = version + 1

-- find_tenant --
-- A tenant by name.
SELECT tenant_id, disabled_at IS NOT NULL FROM tenant WHERE name = %(name)s

-- find_site --
-- A site by tenant and name.
SELECT s.site_id, s.disabled_at IS NOT NULL
FROM site s JOIN tenant t USING (tenant_id)
WHERE t.name = %(tenant)s AND s.name = %(name)s

-- find_agent --
-- An agent by tenant and name.
SELECT a.agent_id, a.disabled_at IS NOT NULL
FROM agent a JOIN tenant t USING (tenant_id)
WHERE t.name = %(tenant)s AND a.name = %(name)s

-- add_tenant --
-- A tenant, unless it is there.
INSERT INTO tenant (name) VALUES (%(name)s) ON CONFLICT DO NOTHING

-- add_site --
-- A site, unless it is there.
INSERT INTO site (tenant_id, name) SELECT tenant_id, %(name)s FROM tenant WHERE name = %(tenant)s ON CONFLICT DO NOTHING

-- add_agent --
-- An agent, unless it is there.
INSERT INTO agent (tenant_id, name) SELECT tenant_id, %(name)s FROM tenant WHERE name = %(tenant)s ON CONFLICT DO NOTHING

-- set_tenant --
-- Disable or enable a tenant.
UPDATE tenant SET disabled_at = CASE WHEN %(disabled)s THEN clock_timestamp() END
WHERE tenant_id = %(ident)s AND (disabled_at IS NOT NULL) <> %(disabled)s

-- set_site --
-- Disable or enable a site.
UPDATE site SET disabled_at = CASE WHEN %(disabled)s THEN clock_timestamp() END
WHERE site_id = %(ident)s AND (disabled_at IS NOT NULL) <> %(disabled)s

-- set_agent --
-- Disable or enable an agent.
UPDATE agent SET disabled_at = CASE WHEN %(disabled)s THEN clock_timestamp() END
WHERE agent_id = %(ident)s AND (disabled_at IS NOT NULL) <> %(disabled)s

-- list_tenant --
-- Tenants with how much they have.
SELECT t.name, t.disabled_at,
       (SELECT count(*) FROM site s WHERE s.tenant_id = t.tenant_id) AS sites,
       (SELECT count(*) FROM agent a WHERE a.tenant_id = t.tenant_id) AS agents,
       (SELECT count(*) FROM point p WHERE p.tenant_id = t.tenant_id) AS points
FROM tenant t ORDER BY t.name

-- list_site --
-- Sites with how many points they have.
SELECT t.name AS tenant, s.name, s.disabled_at,
       (SELECT count(*) FROM point p WHERE p.tenant_id = s.tenant_id AND p.site = s.name) AS points
FROM site s JOIN tenant t USING (tenant_id) ORDER BY t.name, s.name

-- list_agent --
-- Agents with their latest state.
SELECT t.name AS tenant, a.name, a.disabled_at, a.state, a.state_at, a.software
FROM agent a JOIN tenant t USING (tenant_id) ORDER BY t.name, a.name
