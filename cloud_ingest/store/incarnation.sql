-- current --
-- The newest incarnation and when it was drawn [µs UTC].
SELECT id, (extract(epoch FROM drawn_at) * 1000000)::bigint FROM incarnation ORDER BY drawn_at DESC LIMIT 1

-- draw --
-- A new incarnation, later than any other even if the clock went back.
INSERT INTO incarnation (drawn_at, reason)
SELECT greatest(clock_timestamp(), max(drawn_at) + interval '1 microsecond'), %(reason)s FROM incarnation
