-- add --
-- Park a message.
INSERT INTO parked (batch_id, tenant_id, agent_id, schema_id, topic, payload, reason) VALUES (%s, %s, %s, %s, %s, %s, %s)

-- due --
-- Messages whose schema is known.
SELECT p.batch_id, p.tenant_id, p.agent_id, p.schema_id, p.topic, p.payload, p.reason
FROM parked p JOIN schema s USING (tenant_id, schema_id)
WHERE p.batch_id > %(after)s
ORDER BY p.batch_id
LIMIT %(limit)s

-- take --
-- Remove messages unless another transaction is at it.
DELETE FROM parked
WHERE batch_id IN (SELECT batch_id FROM parked WHERE batch_id = ANY(%s) ORDER BY batch_id FOR UPDATE SKIP LOCKED)
RETURNING batch_id
