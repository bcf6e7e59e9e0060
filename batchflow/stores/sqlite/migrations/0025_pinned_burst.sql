-- A pinned rate has a burst of its own, as those of the flow control of posts do.

ALTER TABLE flow ADD COLUMN pin_burst INTEGER NOT NULL DEFAULT 1;
ALTER TABLE flow DROP COLUMN max_burst;
ALTER TABLE flow ADD COLUMN max_burst INTEGER AS (CASE WHEN pin_rate IS NULL THEN burst ELSE pin_burst END) VIRTUAL;
