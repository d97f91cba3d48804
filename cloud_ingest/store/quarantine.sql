-- add --
-- Readings with times that can't be.
INSERT INTO quarantine (batch_id, point_id, at_us, value, quality, reason)
SELECT t.*, %(reason)s
FROM unnest(
    %(batch_id)s::bigint[], %(point_id)s::int[], %(at_us)s::bigint[], %(value)s::text[], %(quality)s::smallint[]
) AS t
