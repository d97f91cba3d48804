-- fetch --
-- Packed columns of some points between two times, widened to the nearest valid neighbours within a limit.
WITH span AS (
    SELECT p.point_id,
        coalesce((
            SELECT r.at FROM {table} r
            WHERE r.point_id = p.point_id AND r.quality < %(below)s
              AND r.at < %(first)s AND r.at >= %(first)s - %(limit_us)s::bigint * interval '1 microsecond'
              AND NOT EXISTS (
                  SELECT FROM {table} d
                  WHERE d.point_id = r.point_id AND d.at = r.at AND d.batch_id > r.batch_id AND d.quality >= %(below)s
              )
            ORDER BY r.at DESC LIMIT 1
        ), %(first)s) AS first_at,
        coalesce((
            SELECT r.at FROM {table} r
            WHERE r.point_id = p.point_id AND r.quality < %(below)s
              AND r.at > %(last)s AND r.at <= %(last)s + %(limit_us)s::bigint * interval '1 microsecond'
              AND NOT EXISTS (
                  SELECT FROM {table} d
                  WHERE d.point_id = r.point_id AND d.at = r.at AND d.batch_id > r.batch_id AND d.quality >= %(below)s
              )
            ORDER BY r.at LIMIT 1
        ), %(last)s) AS last_at
    FROM unnest(%(points)s::int[]) AS p (point_id)
)
SELECT s.point_id, packed.*
FROM span s
CROSS JOIN LATERAL (
    SELECT string_agg(timestamptz_send(at), ''::bytea), {values},
           string_agg(int8send(batch_id), ''::bytea), string_agg(int2send(quality), ''::bytea)
    FROM {table} r
    WHERE r.point_id = s.point_id AND r.at BETWEEN s.first_at AND s.last_at
) AS packed

-- page --
-- Packed columns of the first readings of one point from a time on.
SELECT count(*), string_agg(timestamptz_send(at), ''::bytea), {values},
       string_agg(int8send(batch_id), ''::bytea), string_agg(int2send(quality), ''::bytea)
FROM (
    SELECT at, value, batch_id, quality FROM {table}
    WHERE point_id = %(point)s AND at BETWEEN %(first)s AND %(last)s
    ORDER BY at, batch_id
    LIMIT %(limit)s
) AS first_rows
