-- update --
-- What a session record says.
UPDATE agent SET
    state = %(state)s,
    session = CASE WHEN %(online)s THEN %(session)s ELSE session END,
    epochs = coalesce(%(epochs)s::uuid[], epochs),
    software = %(software)s,
    detail = %(detail)s,
    state_at = clock_timestamp()
WHERE agent_id = %(agent_id)s AND (%(online)s OR session IS NULL OR session = %(session)s)

-- known --
-- Agents that have announced a session.
SELECT a.agent_id, t.name, a.name, a.session, a.epochs
FROM agent a JOIN tenant t USING (tenant_id)
WHERE a.session IS NOT NULL
ORDER BY a.agent_id

-- names --
-- Names of agents by id.
SELECT a.agent_id, t.name, a.name FROM agent a JOIN tenant t USING (tenant_id) WHERE a.agent_id = ANY(%s)
