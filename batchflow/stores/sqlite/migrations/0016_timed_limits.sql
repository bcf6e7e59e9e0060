-- Pins and the pause of a flow key may end by themselves.

-- When each ends; NULL: only by hand, or there is none. changes_at: the earliest of these.
ALTER TABLE flow ADD COLUMN parallelism_until INTEGER;
ALTER TABLE flow ADD COLUMN rate_until INTEGER;
ALTER TABLE flow ADD COLUMN paused_until INTEGER;
ALTER TABLE flow ADD COLUMN changes_at INTEGER AS (nullif(min(
    coalesce(parallelism_until, 9223372036854775807), coalesce(rate_until, 9223372036854775807),
    coalesce(paused_until, 9223372036854775807)), 9223372036854775807)) VIRTUAL;
CREATE INDEX flow_changes ON flow (changes_at) WHERE changes_at IS NOT NULL;
