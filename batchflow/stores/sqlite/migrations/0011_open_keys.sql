-- A claim reads only the flow keys under which something may start, in the order of their turns, however many others there
-- are; and workers report how many of their threads hang.

ALTER TABLE worker ADD COLUMN hanging INTEGER NOT NULL DEFAULT 0;

-- Of a flow key. ready_at: the earliest of its open lanes. opens_at: when something may start next, as far as only time
-- decides; open: 1 once a claim has found that this time has come. given_away: the last start time that was used.
ALTER TABLE flow ADD COLUMN ready_at INTEGER;
ALTER TABLE flow ADD COLUMN open INTEGER NOT NULL DEFAULT 0;
ALTER TABLE flow ADD COLUMN opens_at REAL AS (CASE
    WHEN paused = 1 OR ready_at IS NULL OR in_use >= max_parallelism THEN NULL
    WHEN max_rate IS NULL THEN max(ready_at, parked_until)
    ELSE max(ready_at, parked_until, next_start) END) VIRTUAL;
ALTER TABLE flow ADD COLUMN given_away REAL AS (next_start - max_period * 1.0 / max_rate) VIRTUAL;

DROP INDEX lane_ready;
CREATE INDEX lane_ready ON lane (flow, ready_at) WHERE ready_at IS NOT NULL AND closed = 0;
UPDATE flow SET ready_at = (SELECT min(ready_at) FROM lane
    WHERE lane.flow = flow.key AND lane.ready_at IS NOT NULL AND closed = 0);

CREATE INDEX flow_open ON flow (turn, key) WHERE open = 1;
CREATE INDEX flow_opens ON flow (opens_at, turn) WHERE open = 0 AND opens_at IS NOT NULL;
CREATE INDEX flow_given_away ON flow (given_away) WHERE open = 0 AND given_away IS NOT NULL;

CREATE TRIGGER flow_changed
AFTER UPDATE OF paused, ready_at, parked_until, next_start, in_use, parallelism, rate, pin_parallelism, pin_rate ON flow
WHEN NEW.open = 1 AND NEW.opens_at IS NOT OLD.opens_at
BEGIN
    UPDATE flow SET open = 0 WHERE key = NEW.key;
END;

CREATE TRIGGER lane_changed
AFTER UPDATE OF ready_at, closed ON lane
WHEN NEW.ready_at IS NOT OLD.ready_at OR (NEW.closed = 0) <> (OLD.closed = 0)
BEGIN
    UPDATE flow SET ready_at = (SELECT min(ready_at) FROM lane
        WHERE flow = NEW.flow AND ready_at IS NOT NULL AND closed = 0)
    WHERE key = NEW.flow;
END;

CREATE TRIGGER lane_dropped
AFTER DELETE ON lane
WHEN OLD.ready_at IS NOT NULL AND OLD.closed = 0
BEGIN
    UPDATE flow SET ready_at = (SELECT min(ready_at) FROM lane
        WHERE flow = OLD.flow AND ready_at IS NOT NULL AND closed = 0)
    WHERE key = OLD.flow;
END;
