-- catalogue --
-- Points of a site with what settle knows of them.
SELECT p.point_id, p.name, p.quantity, p.unit, p.kind, p.value_type, p.definition
FROM point p WHERE p.tenant_id = %(tenant_id)s AND p.site = %(site)s

-- extents --
-- Parameters and span of valid readings of points as settle last left them.
SELECT point_id, parameters,
       (extract(epoch FROM first_valid) * 1000000)::bigint, (extract(epoch FROM last_valid) * 1000000)::bigint
FROM settle_point WHERE point_id = ANY(%(points)s)

-- save_extents --
-- Keep parameters and the widened span of valid readings.
INSERT INTO settle_point AS s (point_id, parameters, first_valid, last_valid)
SELECT point_id, parameters,
       timestamptz 'epoch' + first_us * interval '1 microsecond', timestamptz 'epoch' + last_us * interval '1 microsecond'
FROM unnest(%(points)s::int[], %(parameters)s::text[], %(first)s::bigint[], %(last)s::bigint[])
     AS n (point_id, parameters, first_us, last_us)
ON CONFLICT (point_id) DO UPDATE SET
    parameters = excluded.parameters,
    first_valid = least(s.first_valid, excluded.first_valid),
    last_valid = greatest(s.last_valid, excluded.last_valid)

-- clock --
-- Latest time of measurement at a site.
SELECT (extract(epoch FROM clock) * 1000000)::bigint FROM settle_site
WHERE tenant_id = %(tenant_id)s AND site = %(site)s

-- save_clock --
-- Move a site's clock on; never back.
INSERT INTO settle_site AS s (tenant_id, site, clock)
VALUES (%(tenant_id)s, %(site)s, timestamptz 'epoch' + %(clock)s::bigint * interval '1 microsecond')
ON CONFLICT (tenant_id, site) DO UPDATE SET clock = greatest(s.clock, excluded.clock)

-- upsert --
-- Store base intervals; tell those that are new or differ.
INSERT INTO interval_use AS i (point_id, start, use, covered_us, estimated, flags)
SELECT point_id, to_timestamp(start_s), CASE WHEN known THEN use END, covered_us, estimated, flags
FROM unnest(%(points)s::int[], %(starts)s::bigint[], %(uses)s::bigint[], %(known)s::bool[], %(covered)s::bigint[],
            %(estimated)s::bigint[], %(flags)s::smallint[])
     AS n (point_id, start_s, use, known, covered_us, estimated, flags)
ON CONFLICT (point_id, start) DO UPDATE SET
    use = excluded.use, covered_us = excluded.covered_us, estimated = excluded.estimated, flags = excluded.flags
WHERE (i.use, i.covered_us, i.estimated, i.flags)
      IS DISTINCT FROM (excluded.use, excluded.covered_us, excluded.estimated, excluded.flags)
RETURNING point_id, extract(epoch FROM start)::bigint

-- remove --
-- Base intervals of which nothing is known any more.
DELETE FROM interval_use i
USING unnest(%(points)s::int[], %(starts)s::bigint[]) AS n (point_id, start_s)
WHERE i.point_id = n.point_id AND i.start = to_timestamp(n.start_s)
RETURNING i.point_id, extract(epoch FROM i.start)::bigint

-- load --
-- Base intervals of points, packed by point.
SELECT point_id,
       string_agg(int8send(extract(epoch FROM start)::bigint), ''::bytea),
       string_agg(int8send(coalesce(use, 0)), ''::bytea),
       string_agg(boolsend(use IS NOT NULL), ''::bytea),
       string_agg(int8send(covered_us), ''::bytea),
       string_agg(int8send(estimated), ''::bytea),
       string_agg(int2send(flags), ''::bytea)
FROM interval_use
WHERE point_id = ANY(%(points)s) AND start >= to_timestamp(%(first)s::bigint) AND start < to_timestamp(%(end)s::bigint)
GROUP BY point_id

-- reading_span --
-- First and last time of any reading of a point.
SELECT (extract(epoch FROM min(at)) * 1000000)::bigint, (extract(epoch FROM max(at)) * 1000000)::bigint
FROM {table} WHERE point_id = %(point)s
