-- follow --
-- Make sure that a follower exists.
INSERT INTO feed_follower (name) VALUES (%(name)s) ON CONFLICT DO NOTHING

-- lock_follower --
-- Let processes that share a follower's name take turns.
SELECT FROM feed_follower WHERE name = %(name)s FOR UPDATE

-- read --
-- Rows after the cursor of which no earlier one can still appear.
SELECT c.xid::text, c.id, c.tenant_id, c.cause, c.points,
       (extract(epoch FROM c.first_at) * 1000000)::bigint, (extract(epoch FROM c.last_at) * 1000000)::bigint,
       c.batch_id, (extract(epoch FROM c.appended_at) * 1000000)::bigint
FROM change_feed c, feed_follower f
WHERE f.name = %(name)s
  AND (c.xid, c.id) > (f.xid, f.id)
  AND c.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY c.xid, c.id
LIMIT %(limit)s

-- advance --
-- Move a cursor.
UPDATE feed_follower SET xid = %(xid)s::text::xid8, id = %(id)s, updated_at = clock_timestamp()
WHERE name = %(name)s

-- append --
-- One change.
INSERT INTO change_feed (tenant_id, cause, points, first_at, last_at, batch_id)
VALUES (%(tenant_id)s, %(cause)s, %(points)s, %(first_at)s, %(last_at)s, %(batch_id)s)

-- copy --
-- Many changes.
COPY change_feed (tenant_id, cause, points, first_at, last_at, batch_id) FROM STDIN (FORMAT BINARY)

-- prune --
-- Of the first rows that every follower has passed, the old ones; without a follower nothing is removed.
WITH slowest AS (
    SELECT xid, id FROM feed_follower ORDER BY xid, id LIMIT 1
), passed AS (
    SELECT c.id, c.appended_at FROM change_feed c, slowest s
    WHERE (c.xid, c.id) <= (s.xid, s.id)
    ORDER BY c.xid, c.id
    LIMIT %(limit)s
)
DELETE FROM change_feed WHERE id IN (
    SELECT c.id FROM change_feed c JOIN passed p USING (id)
    WHERE p.appended_at < clock_timestamp() - make_interval(secs => %(keep_s)s)
    FOR UPDATE OF c SKIP LOCKED
)

-- lag --
-- Rows each follower has still to pass, and those of them held back by a running transaction.
SELECT f.name, count(c.id), coalesce(extract(epoch FROM clock_timestamp() - min(c.appended_at)), 0),
       count(c.id) FILTER (WHERE c.xid >= pg_snapshot_xmin(pg_current_snapshot()))
FROM feed_follower f LEFT JOIN change_feed c ON (c.xid, c.id) > (f.xid, f.id)
GROUP BY f.name ORDER BY f.name

-- holders --
-- Open transactions that have a number of their own, oldest first.
SELECT pid, coalesce(application_name, ''), coalesce(state, ''),
       coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
ORDER BY age(backend_xid) DESC
LIMIT 5

-- lock_feed --
-- Nobody reads or appends while the feed is numbered anew.
LOCK TABLE change_feed, feed_follower IN ACCESS EXCLUSIVE MODE

-- restart_followers --
-- Each cursor becomes the id, in the new numbering, of the last row it has passed.
UPDATE feed_follower f SET
    xid = '0',
    id = (SELECT coalesce(min(id), 1) - count(*) - 1 FROM change_feed)
       + (SELECT count(*) FROM change_feed c WHERE (c.xid, c.id) <= (f.xid, f.id))

-- restart_feed --
-- Ids in reading order, all below those given out so far; transaction 0, before all others.
WITH numbered AS (
    SELECT id, min(id) OVER () - count(*) OVER () - 1 + row_number() OVER (ORDER BY xid, id) AS place
    FROM change_feed
)
UPDATE change_feed c SET xid = '0', id = n.place FROM numbered n WHERE c.id = n.id
