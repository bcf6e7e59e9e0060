-- Items may wait under a flow key of their own inside the key of their layer, and start only if both have room.

-- parent: the other key whose room the messages of a lane take; such a lane is nested, and its held is 2. opens_at: when a nested lane may start
-- something, as far as time and its own key decide; 0 once a claim has found that this time has come, NULL if it is empty or
-- closed, or if its key is full or paused.
ALTER TABLE lane ADD COLUMN parent TEXT;
ALTER TABLE lane ADD COLUMN opens_at REAL;

-- free_at: when its limits let something start; NULL if that is not a matter of time. child_at: the earliest of the nested lanes
-- under it. child_turn: when one of them was served last. From now on ready_at includes child_at.
ALTER TABLE flow ADD COLUMN free_at REAL AS (CASE
    WHEN paused = 1 OR in_use >= max_parallelism THEN NULL
    WHEN max_rate IS NULL THEN parked_until
    ELSE max(parked_until, next_start) END) VIRTUAL;
ALTER TABLE flow ADD COLUMN child_at REAL;
ALTER TABLE flow ADD COLUMN child_turn INTEGER NOT NULL DEFAULT 0;

CREATE INDEX lane_nested ON lane (parent, opens_at, priority DESC, turn) WHERE parent IS NOT NULL AND opens_at IS NOT NULL;
CREATE INDEX lane_nested_due ON lane (opens_at) WHERE parent IS NOT NULL AND opens_at > 0;
CREATE INDEX lane_nested_flow ON lane (flow) WHERE parent IS NOT NULL;
CREATE INDEX lane_nested_parent ON lane (parent) WHERE parent IS NOT NULL;
CREATE INDEX flow_child ON flow (key) WHERE child_at IS NOT NULL;

DROP TRIGGER lane_changed;
CREATE TRIGGER lane_changed
AFTER UPDATE OF ready_at, closed ON lane
WHEN NEW.parent IS NULL AND (NEW.ready_at IS NOT OLD.ready_at OR (NEW.closed = 0) <> (OLD.closed = 0))
BEGIN
    UPDATE flow SET ready_at = (SELECT min(at) FROM (
        SELECT min(ready_at) AS at FROM lane
        WHERE flow = NEW.flow AND ready_at IS NOT NULL AND closed = 0 AND parent IS NULL
        UNION ALL SELECT flow.child_at))
    WHERE key = NEW.flow;
END;

DROP TRIGGER lane_dropped;
CREATE TRIGGER lane_dropped
AFTER DELETE ON lane
WHEN OLD.parent IS NULL AND OLD.ready_at IS NOT NULL AND OLD.closed = 0
BEGIN
    UPDATE flow SET ready_at = (SELECT min(at) FROM (
        SELECT min(ready_at) AS at FROM lane
        WHERE flow = OLD.flow AND ready_at IS NOT NULL AND closed = 0 AND parent IS NULL
        UNION ALL SELECT flow.child_at))
    WHERE key = OLD.flow;
END;

CREATE TRIGGER nested_lane_changed
AFTER UPDATE OF ready_at, closed ON lane
WHEN NEW.parent IS NOT NULL AND (NEW.ready_at IS NOT OLD.ready_at OR (NEW.closed = 0) <> (OLD.closed = 0))
BEGIN
    UPDATE lane SET opens_at = CASE WHEN closed = 0 THEN max(ready_at, (SELECT free_at FROM flow WHERE key = NEW.flow)) END
    WHERE key = NEW.key;
END;

CREATE TRIGGER nested_lanes_freed
AFTER UPDATE OF paused, parked_until, next_start, in_use, parallelism, rate, pin_parallelism, pin_rate ON flow
WHEN NEW.free_at IS NOT OLD.free_at AND EXISTS (SELECT 1 FROM lane WHERE flow = NEW.key AND parent IS NOT NULL)
BEGIN
    UPDATE lane SET opens_at = max(ready_at, NEW.free_at)
    WHERE flow = NEW.key AND parent IS NOT NULL AND ready_at IS NOT NULL AND closed = 0;
END;

CREATE TRIGGER nested_lane_opens
AFTER UPDATE OF opens_at ON lane
WHEN NEW.opens_at IS NOT OLD.opens_at
BEGIN
    UPDATE flow SET child_at = (SELECT min(opens_at) FROM lane WHERE parent = NEW.parent AND opens_at IS NOT NULL)
    WHERE key = NEW.parent AND child_at IS NOT (
        SELECT min(opens_at) FROM lane WHERE parent = NEW.parent AND opens_at IS NOT NULL);
END;

CREATE TRIGGER nested_lane_dropped
AFTER DELETE ON lane
WHEN OLD.opens_at IS NOT NULL
BEGIN
    UPDATE flow SET child_at = (SELECT min(opens_at) FROM lane WHERE parent = OLD.parent AND opens_at IS NOT NULL)
    WHERE key = OLD.parent;
END;

CREATE TRIGGER flow_child_changed
AFTER UPDATE OF child_at ON flow
WHEN NEW.child_at IS NOT OLD.child_at
BEGIN
    UPDATE flow SET ready_at = (SELECT min(at) FROM (
        SELECT min(ready_at) AS at FROM lane
        WHERE flow = NEW.key AND ready_at IS NOT NULL AND closed = 0 AND parent IS NULL
        UNION ALL SELECT NEW.child_at))
    WHERE key = NEW.key;
END;
