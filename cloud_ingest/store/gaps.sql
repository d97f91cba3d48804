-- add --
-- Readings lost of some points.
INSERT INTO gap (batch_id, agent_id, reason, dropped, points, first_at, last_at, readings)
VALUES (%(batch_id)s, %(agent_id)s, %(reason)s, %(dropped)s, %(points)s, %(first_at)s, %(last_at)s, %(readings)s)
