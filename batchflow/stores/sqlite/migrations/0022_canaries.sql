-- A batch may have a canary: items that run before all others.

-- canary: the number of these items, NULL without one. approve_under: the share of them that may fail so that the batch
-- approves itself, NULL: none. held_by: for what its held messages wait, bits as in lane.closed: 1 the end of the walk,
-- 8 approval; NULL without a canary.
ALTER TABLE batch ADD COLUMN canary INTEGER;
ALTER TABLE batch ADD COLUMN approve_under REAL;
ALTER TABLE batch ADD COLUMN held_by INTEGER;

-- closed has the bit 8 for messages that wait for approval: greater than 4 is no longer the same as cancelled.
DROP INDEX lane_broken;
CREATE INDEX lane_broken ON lane (key) WHERE held = 1 AND closed & 4;
