-- ledger --
-- Messages by status, and readings of those stored; those with rows removed since included.
SELECT count(*) FILTER (WHERE status = 0) + (SELECT messages FROM ledger_removed),
       count(*) FILTER (WHERE status = 1), count(*) FILTER (WHERE status = 2),
       coalesce(sum(readings) FILTER (WHERE status = 0), 0)::bigint + (SELECT readings FROM ledger_removed)
FROM ledger

-- parked --
-- Parked messages.
SELECT count(*) FROM parked

-- dead_letters --
-- Dead letters.
SELECT count(*) FROM dead_letter

-- quarantined --
-- Readings with times that can't be.
SELECT count(*) FROM quarantine WHERE state = 'held'

-- agents --
-- Agents by state.
SELECT state, count(*) FROM agent GROUP BY state ORDER BY state
