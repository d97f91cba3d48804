-- ranges --
-- Bounds of a table's partitions [µs UTC].
SELECT (extract(epoch FROM bounds[1]::timestamptz) * 1000000)::bigint,
       (extract(epoch FROM bounds[2]::timestamptz) * 1000000)::bigint
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid,
     regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \('([^']+)'\) TO \('([^']+)'\)$$) AS bounds
WHERE i.inhparent = to_regclass(%(table)s)

-- make --
-- A partition: attaching it, unlike creating it in place, takes a lock that lets writers go on.
CREATE TABLE {partition} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({first}) TO ({end})
