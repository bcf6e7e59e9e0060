-- Every statement has one caller. `given` is the VALUES list to which the rows of a call are bound.
-- Reading statements return one JSON text.

-- worker_key --
SELECT key FROM worker WHERE name = :name;

-- worker_register --
INSERT INTO worker (name, lease_until, since, seen_at, concurrency, serves)
VALUES (:name, :until, :now, :now, :concurrency, :serves)
ON CONFLICT (name) DO UPDATE SET
    lease_until = excluded.lease_until, seen_at = excluded.seen_at, concurrency = excluded.concurrency,
    serves = coalesce(excluded.serves, serves);

-- worker_renew --
-- Only if the worker is still registered: its claims have not been reclaimed.
UPDATE worker SET lease_until = :until, seen_at = :now, hanging = :hanging WHERE name = :name;

-- worker_all --
SELECT json_group_array(json_array(key, name, lease_until)) FROM worker;

-- worker_status --
SELECT json_group_array(json_array(name, since, seen_at, lease_until, concurrency, hanging, json(holds), serves))
FROM (
    SELECT w.name, w.since, w.seen_at, w.lease_until, w.concurrency, w.hanging, w.serves,
        (SELECT json_group_object(destination, held) FROM (
            SELECT l.destination, count(*) AS held FROM message m CROSS JOIN lane l ON l.key = m.lane
            WHERE m.owner = w.key GROUP BY l.destination)) AS holds
    FROM worker w
    ORDER BY w.name
);

-- work_unserved --
-- Due messages in open lanes of destinations that are not in :served, counted up to :most in each lane.
SELECT json_group_array(json_array(destination, waiting, batch)) FROM (
    SELECT v.destination, min(v.waiting, :most) AS waiting, b.id AS batch
    FROM (
        SELECT u.destination, sum(u.waiting) AS waiting, min(u.batch) AS first, max(u.batch) AS last
        FROM (
            SELECT l.destination, l.batch, (
                SELECT count(*) FROM (SELECT 1 FROM message m
                    WHERE m.lane = l.key AND m.owner IS NULL AND m.stage < 3 AND m.due <= :now LIMIT :most)) AS waiting
            FROM lane l INDEXED BY lane_ready JOIN flow f ON f.key = l.flow LEFT JOIN flow p ON p.key = l.parent
            WHERE l.ready_at IS NOT NULL AND l.closed = 0 AND l.ready_at <= :now
                AND (f.paused = 0 OR f.paused_until <= :now) AND f.parked_until <= :now
                AND (p.key IS NULL OR (p.paused = 0 OR p.paused_until <= :now) AND p.parked_until <= :now)
                AND l.destination NOT IN (SELECT value FROM json_each(:served))) u
        WHERE u.waiting > 0 GROUP BY u.destination) v
        LEFT JOIN batch b ON b.key = v.first AND v.first = v.last
    ORDER BY v.destination LIMIT :limit);

-- worker_delete --
DELETE FROM worker WHERE key = :worker;

-- lane_key --
SELECT key FROM lane WHERE destination = :destination AND flow = :flow AND batch = :batch AND held = :held;

-- lane_add --
-- A new lane joins the end of the rotation.
INSERT INTO lane (destination, flow, batch, held, closed, priority, turn, parent)
SELECT :destination, :flow, :batch, :held, (:held & 1) * coalesce(max(held_by), 1) | coalesce(max(paused), 0) * 2,
    coalesce(max(priority), 0), (SELECT value FROM counter WHERE name = 'turn'), :parent
FROM batch WHERE key = :batch;

-- lanes_add_nested --
-- Lanes of items under keys of their own inside the key of `layer`, the lane of the other items of their batch.
WITH given (layer, flow) AS (VALUES :rows)
INSERT OR IGNORE INTO lane (destination, flow, batch, held, closed, priority, turn, parent)
SELECT l.destination, g.flow, l.batch, 2, b.paused * 2, b.priority, (SELECT value FROM counter WHERE name = 'turn'), l.flow
FROM given g CROSS JOIN lane l ON l.key = g.layer AND l.flow <> g.flow CROSS JOIN batch b ON b.key = l.batch;

-- lanes_nested_keys --
WITH given (layer, flow) AS (VALUES :rows)
SELECT json_group_array(json_array(layer, flow, key)) FROM (
    SELECT g.layer, g.flow, n.key FROM given g CROSS JOIN lane l ON l.key = g.layer
        CROSS JOIN lane n ON n.destination = l.destination AND n.flow = g.flow AND n.batch = l.batch
            AND n.held = CASE WHEN g.flow = l.flow THEN 0 ELSE 2 END);

-- lanes_ready_at_once --
WITH given (lane) AS (VALUES :rows)
UPDATE lane SET ready_at = 0 WHERE key IN (SELECT lane FROM given) AND ready_at IS NOT 0;

-- lane_ready_by --
UPDATE lane SET ready_at = min(coalesce(ready_at, :due), :due) WHERE key = :lane;

-- lane_recount --
UPDATE lane
SET ready_at = (SELECT min(due) FROM (
    SELECT * FROM (SELECT due FROM message
        WHERE lane = :lane AND owner IS NULL AND stage = 0 ORDER BY due LIMIT 1)
    UNION ALL
    SELECT * FROM (SELECT due FROM message
        WHERE lane = :lane AND owner IS NULL AND stage = 1 ORDER BY due LIMIT 1)))
WHERE key = :lane;

-- lane_promote --
-- Fresh messages that have become due take their place by id.
UPDATE message SET due = 0
WHERE lane = :lane AND owner IS NULL AND stage = 0 AND due > 0 AND due <= :now;

-- lane_set_served --
UPDATE lane SET turn = :turn, ahead = :ahead WHERE key = :lane;

-- lanes_set_priority --
UPDATE lane SET priority = :priority WHERE batch = :batch;

-- lanes_set_served --
-- The same for several lanes, each with the time of its earliest message: as lane_recount after messages were taken.
WITH given (lane, turn, ahead) AS (VALUES :rows)
UPDATE lane SET turn = coalesce(g.turn, lane.turn), ahead = coalesce(g.ahead, lane.ahead),
    ready_at = (SELECT min(due) FROM (
        SELECT * FROM (SELECT due FROM message
            WHERE lane = g.lane AND owner IS NULL AND stage = 0 ORDER BY due LIMIT 1)
        UNION ALL
        SELECT * FROM (SELECT due FROM message
            WHERE lane = g.lane AND owner IS NULL AND stage = 1 ORDER BY due LIMIT 1)))
FROM given g WHERE lane.key = g.lane;

-- lanes_close --
-- One more reason for which the batch's lanes are closed.
UPDATE lane SET closed = closed | :why WHERE batch = :batch;

-- lanes_break_off --
-- The walk broke off: messages held back are not released any more.
UPDATE lane SET closed = closed | 4 WHERE batch = :batch AND held = 1 AND closed & 1;

-- lanes_broken_off --
-- Lanes of broken-off walks in which messages still wait.
SELECT json_group_array(key) FROM lane l
WHERE l.held = 1 AND l.closed & 4
    AND EXISTS (SELECT 1 FROM message m WHERE m.lane = l.key AND m.owner IS NULL AND m.stage < 3);

-- message_waiting_of_lane --
SELECT json_group_array(json_array(id, lane, batch, number, keep, parent, parent_step, linked, waits)) FROM (
    SELECT id, lane, batch, number, keep, parent, parent_step, linked, waits FROM message
    WHERE lane = :lane AND owner IS NULL AND stage < 3 LIMIT :limit);

-- lanes_open --
UPDATE lane SET closed = closed & ~:why WHERE batch = :batch;

-- lanes_undo_cancel --
-- A cancelled batch that had ended is open again.
UPDATE lane SET closed = closed & ~4 WHERE batch = :batch AND held <> 1 AND closed >= 4;

-- lanes_drop --
-- Empty lanes of a batch.
DELETE FROM lane WHERE batch = :batch
    AND NOT EXISTS (SELECT 1 FROM message m WHERE m.lane = lane.key AND m.owner IS NULL)
    AND NOT EXISTS (SELECT 1 FROM message m WHERE m.batch = :batch AND m.owner IS NOT NULL);

-- served_clear --
DELETE FROM served;

-- served_add --
-- The destinations of a worker, in a temporary table: a claim joins it, however many there are.
WITH given (destination) AS (VALUES :rows)
INSERT OR IGNORE INTO served (list, destination) SELECT :list, destination FROM given WHERE destination IS NOT NULL;

-- flows_open --
-- Open the keys with a message of these destinations that may start by now. As in batchflow.core.flow.admit, a last start
-- in the future is ignored: the clock was set back.
UPDATE flow SET open = 1 WHERE key IN (
    SELECT * FROM (SELECT f.key FROM flow f
        WHERE f.open = 0 AND f.opens_at <= :now AND EXISTS (
            SELECT 1 FROM lane l CROSS JOIN served s ON s.list = :served AND s.destination = l.destination
            WHERE l.flow = f.key AND l.ready_at <= :now AND l.closed = 0 AND l.parent IS NULL
            UNION ALL
            SELECT 1 FROM lane l CROSS JOIN served s ON s.list = :served AND s.destination = l.destination
            WHERE l.parent = f.key AND l.opens_at <= :now)
        ORDER BY f.opens_at, f.turn LIMIT :limit)
    UNION ALL
    SELECT * FROM (SELECT key FROM flow
        WHERE open = 0 AND given_away > :now + 1000 AND opens_at IS NOT NULL AND max(ready_at, parked_until) <= :now
        LIMIT :limit));

-- lanes_ready --
-- The lanes that may start something, those of the key that was served longest ago first, and of these the highest
-- priority first; one row without a lane stands for all that are nested under a key and have the highest priority of these.
SELECT json_group_array(json_array(
    lane, destination, flow, ahead, max_parallelism, max_rate, max_period, max_burst, in_use, next_start, priority,
    open_for))
FROM (
    SELECT l.key AS lane, l.destination, l.flow, l.ahead, f.max_parallelism, f.max_rate, f.max_period, f.max_burst,
        f.in_use, f.next_start, l.priority AS priority, f.open_for, f.turn AS flow_turn, l.turn AS lane_turn,
        l.ready_at AS ready_at
    FROM flow f CROSS JOIN lane l ON l.flow = f.key
    WHERE f.open = 1 AND l.ready_at <= :now AND l.closed = 0 AND l.parent IS NULL
        AND EXISTS (SELECT 1 FROM served s WHERE s.list = :served AND s.destination = l.destination)
    UNION ALL
    SELECT NULL, '', f.key, 0, f.max_parallelism, f.max_rate, f.max_period, f.max_burst, f.in_use, f.next_start,
        l.priority, f.open_for, f.turn, f.child_turn, f.child_at
    FROM flow f CROSS JOIN lane l ON l.key = (
        SELECT n.key FROM lane n
        WHERE n.parent = f.key AND n.opens_at = 0
            AND EXISTS (SELECT 1 FROM served s WHERE s.list = :served AND s.destination = n.destination)
        ORDER BY n.priority DESC LIMIT 1)
    WHERE f.open = 1 AND f.child_at <= :now
    ORDER BY flow_turn, flow, priority DESC, lane_turn, ready_at
    LIMIT :limit
);

-- nested_open --
-- Nested lanes whose time has come.
UPDATE lane SET opens_at = 0 WHERE key IN (
    SELECT key FROM lane WHERE parent IS NOT NULL AND opens_at > 0 AND opens_at <= :now
    UNION ALL
    SELECT l.key FROM flow f CROSS JOIN lane l ON l.flow = f.key AND l.parent IS NOT NULL
    WHERE f.open = 0 AND f.given_away > :now + 1000 AND f.free_at IS NOT NULL
        AND l.opens_at > :now AND max(l.ready_at, f.parked_until) <= :now);

-- nested_ready --
-- The lanes of a priority under a key that may start something as far as their own keys decide, the one that was served
-- longest ago first.
SELECT json_group_array(json_array(
    lane, destination, flow, ahead, max_parallelism, max_rate, max_period, max_burst, in_use, next_start, priority,
    open_for))
FROM (
    SELECT l.key AS lane, l.destination, l.flow, l.ahead, f.max_parallelism, f.max_rate, f.max_period, f.max_burst,
        f.in_use, f.next_start, l.priority, f.open_for
    FROM lane l CROSS JOIN flow f ON f.key = l.flow
    WHERE l.parent = :parent AND l.opens_at = 0 AND l.priority = :priority
        AND EXISTS (SELECT 1 FROM served s WHERE s.list = :served AND s.destination = l.destination)
    ORDER BY l.turn, l.key
    LIMIT :limit
);

-- lane_parent --
-- The key under which a lane is nested, as a row of lanes_ready.
SELECT json_group_array(json_array(
    lane, destination, flow, ahead, max_parallelism, max_rate, max_period, max_burst, in_use, next_start, priority,
    open_for))
FROM (
    SELECT NULL AS lane, '' AS destination, f.key AS flow, 0 AS ahead, f.max_parallelism, f.max_rate, f.max_period,
        f.max_burst, f.in_use, f.next_start, 0 AS priority, f.open_for
    FROM lane l CROSS JOIN flow f ON f.key = l.parent WHERE l.key = :lane);

-- lanes_next --
-- The time when a message of these destinations may start next, as far as only time decides; possibly somewhat early if
-- its key has lanes of other destinations.
SELECT min(due) FROM (
    SELECT * FROM (SELECT f.opens_at AS due FROM flow f
        WHERE f.open = 0 AND f.opens_at > :now AND EXISTS (
            SELECT 1 FROM lane l CROSS JOIN served s ON s.list = :served AND s.destination = l.destination
            WHERE l.flow = f.key AND l.ready_at IS NOT NULL AND l.closed = 0 AND l.parent IS NULL)
        ORDER BY f.opens_at LIMIT 1)
    UNION ALL
    SELECT min(max(l.ready_at, f.parked_until, CASE WHEN f.max_rate IS NULL THEN 0 ELSE f.next_start END))
    FROM flow f CROSS JOIN lane l ON l.flow = f.key
    WHERE f.open = 0 AND f.opens_at <= :now AND l.ready_at IS NOT NULL AND l.closed = 0 AND l.parent IS NULL
        AND EXISTS (SELECT 1 FROM served s WHERE s.list = :served AND s.destination = l.destination)
    UNION ALL
    SELECT min(l.ready_at) FROM flow f CROSS JOIN lane l ON l.flow = f.key
    WHERE f.open = 1 AND l.ready_at IS NOT NULL AND l.closed = 0 AND l.parent IS NULL
        AND EXISTS (SELECT 1 FROM served s WHERE s.list = :served AND s.destination = l.destination)
    UNION ALL
    SELECT min(max(f.free_at, (SELECT l.opens_at FROM lane l
        WHERE l.parent = f.key AND l.opens_at IS NOT NULL
            AND EXISTS (SELECT 1 FROM served s WHERE s.list = :served AND s.destination = l.destination)
        ORDER BY l.opens_at LIMIT 1)))
    FROM flow f WHERE f.child_at IS NOT NULL AND f.free_at IS NOT NULL
    UNION ALL
    SELECT max(m.due, f.free_at, coalesce(p.free_at, 0))
    FROM message m CROSS JOIN lane l ON l.key = m.lane CROSS JOIN flow f ON f.key = l.flow
        LEFT JOIN flow p ON p.key = l.parent
    WHERE m.owner IS NULL AND m.stage = 2 AND l.closed = 0 AND f.free_at IS NOT NULL
        AND (p.key IS NULL OR p.free_at IS NOT NULL)
        AND EXISTS (SELECT 1 FROM served s WHERE s.list = :served AND s.destination = l.destination));

-- claim_begin --
-- 1 if the worker holds a message that is claimed alone; when the next pin or pause ends by itself; and 1 if the time of
-- nested lanes has come. As in flows_open, a last start in the future is ignored.
SELECT json_array(
    EXISTS (SELECT 1 FROM message INDEXED BY message_suspect WHERE owner = :worker AND stage = 2),
    (SELECT changes_at FROM flow WHERE changes_at IS NOT NULL ORDER BY changes_at LIMIT 1),
    EXISTS (SELECT 1 FROM lane WHERE parent IS NOT NULL AND opens_at > 0 AND opens_at <= :now)
        OR EXISTS (SELECT 1 FROM flow f CROSS JOIN lane l ON l.flow = f.key AND l.parent IS NOT NULL
            WHERE f.open = 0 AND f.given_away > :now + 1000 AND l.opens_at > :now));

-- suspects_due --
-- Messages that are claimed alone, the earliest first, each with the columns of its lane.
SELECT json_group_array(json_array(
    lane, destination, flow, ahead, max_parallelism, max_rate, max_period, max_burst, in_use, next_start, priority,
    open_for, id))
FROM (
    SELECT l.key AS lane, l.destination, l.flow, l.ahead, f.max_parallelism, f.max_rate, f.max_period, f.max_burst,
        f.in_use, f.next_start, l.priority, f.open_for, m.id
    FROM message m CROSS JOIN lane l ON l.key = m.lane CROSS JOIN flow f ON f.key = l.flow
        LEFT JOIN flow p ON p.key = l.parent
    WHERE m.owner IS NULL AND m.stage = 2 AND m.due <= :now AND l.closed = 0 AND f.paused = 0 AND f.parked_until <= :now
        AND EXISTS (SELECT 1 FROM served s WHERE s.list = :served AND s.destination = l.destination)
        AND (f.max_parallelism IS NULL OR f.in_use < f.max_parallelism)
        AND (f.max_rate IS NULL OR f.next_start <= :now OR f.next_start > :now + 1000 + f.max_period * 1.0 / f.max_rate)
        AND (p.key IS NULL OR p.paused = 0 AND p.parked_until <= :now
            AND (p.max_parallelism IS NULL OR p.in_use < p.max_parallelism)
            AND (p.max_rate IS NULL OR p.next_start <= :now
                OR p.next_start > :now + 1000 + p.max_period * 1.0 / p.max_rate))
    ORDER BY m.due, m.id
    LIMIT 1
);

-- turns_allocate --
-- Allocate turns, and return the last of them.
UPDATE counter SET value = value + :count WHERE name = 'turn' RETURNING value;

-- flow_lease --
UPDATE flow SET in_use = in_use + :count, next_start = :next_start, turn = :turn WHERE key = :flow;

-- flow_lease_nested --
-- The same for the key under which the lanes of the leased messages are nested.
UPDATE flow SET in_use = in_use + :count, next_start = :next_start, turn = :turn, child_turn = :turn WHERE key = :flow;

-- flow_take_slot --
-- Of each key of a lane. Returns those whose circuit breaker is open.
UPDATE flow SET in_use = in_use + 1 WHERE key IN (
    SELECT flow FROM lane WHERE key = :lane UNION ALL SELECT parent FROM lane WHERE key = :lane)
RETURNING CASE WHEN open_for > 0 THEN key END;

-- flow_release --
UPDATE flow SET in_use = max(0, in_use - :count) WHERE key IN (
    SELECT flow FROM lane WHERE key = :lane UNION ALL SELECT parent FROM lane WHERE key = :lane)
RETURNING in_a_row;

-- flow_breakers --
-- The circuit breakers of the keys of a lane; is_top: it is not that of the items' own key.
SELECT json_group_array(json_array(is_top, key, in_a_row, open_for, trial)) FROM (
    SELECT f.key = coalesce(l.parent, l.flow) AS is_top, f.* FROM lane l
        CROSS JOIN flow f ON f.key IN (l.flow, l.parent) WHERE l.key = :lane);

-- flow_set_breaker --
UPDATE flow SET in_a_row = :in_a_row, open_for = :open_for, trial = :trial,
    parked_until = max(CASE WHEN trial IS NULL THEN parked_until ELSE 0 END, :until)
WHERE key = :flow;

-- flow_try --
-- Nothing else starts until the trial has ended.
UPDATE flow SET trial = :trial, parked_until = :never WHERE key = :flow;

-- flows_lease --
WITH given (flow, count, next_start, turn) AS (VALUES :rows)
UPDATE flow SET in_use = in_use + g.count, next_start = g.next_start, turn = g.turn FROM given g WHERE flow.key = g.flow;

-- flow_park --
UPDATE flow SET parked_until = max(parked_until, :until) WHERE key = (SELECT flow FROM lane WHERE key = :lane);

-- flow_declare --
INSERT INTO flow (key, declared, parallelism, rate, period, burst, turn)
VALUES (:key, 1, :parallelism, :rate, :period, :burst, (SELECT value FROM counter WHERE name = 'turn'))
ON CONFLICT (key) DO UPDATE SET
    declared = 1, parallelism = excluded.parallelism, rate = excluded.rate, period = excluded.period,
    burst = excluded.burst,
    next_start = CASE WHEN rate IS excluded.rate AND period IS excluded.period THEN next_start ELSE 0 END;

-- flow_follow --
-- The limits of a message's key, unless the code declares it.
INSERT INTO flow (key, parallelism, rate, period, burst, turn)
VALUES (:key, :parallelism, :rate, :period, :burst, (SELECT value FROM counter WHERE name = 'turn'))
ON CONFLICT (key) DO UPDATE SET
    parallelism = excluded.parallelism, rate = excluded.rate, period = excluded.period, burst = excluded.burst,
    next_start = CASE WHEN rate IS excluded.rate AND period IS excluded.period THEN next_start ELSE 0 END
WHERE declared = 0;

-- flows_follow --
WITH given (key, parallelism, rate, period, burst) AS (VALUES :rows)
INSERT INTO flow (key, parallelism, rate, period, burst, turn)
SELECT key, parallelism, rate, period, burst, (SELECT value FROM counter WHERE name = 'turn') FROM given
WHERE key IS NOT NULL
ON CONFLICT (key) DO UPDATE SET
    parallelism = excluded.parallelism, rate = excluded.rate, period = excluded.period, burst = excluded.burst,
    next_start = CASE WHEN rate IS excluded.rate AND period IS excluded.period THEN next_start ELSE 0 END
WHERE declared = 0 AND (parallelism IS NOT excluded.parallelism OR rate IS NOT excluded.rate
    OR period IS NOT excluded.period OR burst IS NOT excluded.burst);

-- flow_pin --
INSERT INTO flow (key, pin_parallelism, pin_rate, pin_period, pin_burst, parallelism_until, rate_until, turn)
VALUES (:key, :parallelism, :rate, :period, :burst, CASE WHEN :parallelism IS NOT NULL THEN :until END,
    CASE WHEN :rate IS NOT NULL THEN :until END, (SELECT value FROM counter WHERE name = 'turn'))
ON CONFLICT (key) DO UPDATE SET
    pin_parallelism = coalesce(excluded.pin_parallelism, pin_parallelism),
    parallelism_until = CASE WHEN excluded.pin_parallelism IS NULL THEN parallelism_until ELSE :until END,
    rate_until = CASE WHEN excluded.pin_rate IS NULL THEN rate_until ELSE :until END,
    next_start = CASE WHEN excluded.pin_rate IS NULL THEN next_start ELSE 0 END,
    pin_period = CASE WHEN excluded.pin_rate IS NULL THEN pin_period ELSE excluded.pin_period END,
    pin_burst = CASE WHEN excluded.pin_rate IS NULL THEN pin_burst ELSE excluded.pin_burst END,
    pin_rate = coalesce(excluded.pin_rate, pin_rate);

-- flow_unpin --
UPDATE flow SET
    pin_parallelism = CASE WHEN :parallelism THEN NULL ELSE pin_parallelism END,
    parallelism_until = CASE WHEN :parallelism THEN NULL ELSE parallelism_until END,
    rate_until = CASE WHEN :rate THEN NULL ELSE rate_until END,
    next_start = CASE WHEN :rate AND pin_rate IS NOT NULL THEN 0 ELSE next_start END,
    pin_rate = CASE WHEN :rate THEN NULL ELSE pin_rate END,
    pin_period = CASE WHEN :rate THEN NULL ELSE pin_period END
WHERE key = :key;

-- flow_pause --
INSERT INTO flow (key, paused, paused_until, turn)
VALUES (:key, 1, :until, (SELECT value FROM counter WHERE name = 'turn'))
ON CONFLICT (key) DO UPDATE SET paused = 1, paused_until = :until;

-- flow_resume --
UPDATE flow SET paused = 0, paused_until = NULL WHERE key = :key;

-- flow_reset --
UPDATE flow SET
    pin_parallelism = NULL, pin_rate = NULL, pin_period = NULL, paused = 0, parked_until = 0, next_start = 0,
    in_a_row = 0, open_for = 0, trial = NULL,
    parallelism_until = NULL, rate_until = NULL, paused_until = NULL
WHERE key = :key;

-- flow_forget_starts --
UPDATE flow SET next_start = 0 WHERE key = :key;

-- flow_undo_ended --
-- Undo the pins and pauses that have ended by themselves.
UPDATE flow SET
    pin_parallelism = CASE WHEN parallelism_until <= :now THEN NULL ELSE pin_parallelism END,
    next_start = CASE WHEN rate_until <= :now THEN 0 ELSE next_start END,
    pin_rate = CASE WHEN rate_until <= :now THEN NULL ELSE pin_rate END,
    pin_period = CASE WHEN rate_until <= :now THEN NULL ELSE pin_period END,
    paused = CASE WHEN paused_until <= :now THEN 0 ELSE paused END,
    parallelism_until = CASE WHEN parallelism_until <= :now THEN NULL ELSE parallelism_until END,
    rate_until = CASE WHEN rate_until <= :now THEN NULL ELSE rate_until END,
    paused_until = CASE WHEN paused_until <= :now THEN NULL ELSE paused_until END
WHERE changes_at IS NOT NULL AND changes_at <= :now;

-- flow_next_change --
SELECT changes_at FROM flow WHERE changes_at IS NOT NULL ORDER BY changes_at LIMIT 1;

-- flow_holders --
SELECT json_group_array(json_array(id, destination, worker, started_at, batch, item)) FROM (
    SELECT m.id, l.destination, w.name AS worker, m.started_at, b.id AS batch, coalesce(i.id, '') AS item
    FROM worker w CROSS JOIN message m ON m.owner = w.key
        CROSS JOIN lane l ON l.key = m.lane AND (l.flow = :flow OR l.parent = :flow)
        LEFT JOIN batch b ON b.key = m.batch LEFT JOIN item i ON i.batch = m.batch AND i.number = m.number
    ORDER BY m.started_at, m.id LIMIT :limit);

-- flow_status_all --
SELECT json_group_array(json_array(
    key, parallelism, rate, period, burst, pin_parallelism, pin_rate, pin_period, pin_burst, paused, in_use, waiting,
    parked_until, parallelism_until, rate_until, paused_until, in_a_row, open_for, trial, next_start, :now))
FROM (
    SELECT f.*,
        CASE WHEN :counted THEN
            (SELECT count(*) FROM lane l CROSS JOIN message m ON m.lane = l.key AND m.owner IS NULL AND m.stage < 3
                WHERE l.flow = f.key)
            + (SELECT count(*) FROM lane l CROSS JOIN message m ON m.lane = l.key AND m.owner IS NULL AND m.stage < 3
                WHERE l.parent = f.key)
        ELSE 0 END AS waiting
    FROM flow f ORDER BY f.key);

-- flow_status --
WITH given (key) AS (VALUES :rows)
SELECT json_group_array(json_array(
    key, parallelism, rate, period, burst, pin_parallelism, pin_rate, pin_period, pin_burst, paused, in_use, waiting,
    parked_until, parallelism_until, rate_until, paused_until, in_a_row, open_for, trial, next_start, :now))
FROM (
    SELECT f.*,
        CASE WHEN :counted THEN
            (SELECT count(*) FROM lane l CROSS JOIN message m ON m.lane = l.key AND m.owner IS NULL AND m.stage < 3
                WHERE l.flow = f.key)
            + (SELECT count(*) FROM lane l CROSS JOIN message m ON m.lane = l.key AND m.owner IS NULL AND m.stage < 3
                WHERE l.parent = f.key)
        ELSE 0 END AS waiting
    FROM flow f WHERE f.key IN (SELECT key FROM given) ORDER BY f.key);

-- flow_idle --
-- A slice of the undeclared keys after `after`, and of each whether nothing uses it and it delays nothing.
SELECT json_group_array(json_array(key, idle)) FROM (
    SELECT f.key, f.in_use = 0 AND f.pin_parallelism IS NULL AND f.pin_rate IS NULL AND f.paused = 0
        AND (f.max_rate IS NULL OR f.next_start <= :now OR f.next_start > :now + 1000 + f.max_period * 1.0 / f.max_rate)
        AND f.parked_until <= :now
        AND NOT EXISTS (SELECT 1 FROM lane l CROSS JOIN message m ON m.lane = l.key AND m.owner IS NULL
            WHERE l.flow = f.key)
        AND NOT EXISTS (SELECT 1 FROM lane l CROSS JOIN message m ON m.lane = l.key AND m.owner IS NULL
            WHERE l.parent = f.key)
        AND NOT EXISTS (SELECT 1 FROM lane l CROSS JOIN batch b ON b.key = l.batch AND b.ended_at IS NULL
            WHERE l.flow = f.key AND l.parent IS NULL) AS idle
    FROM flow f WHERE f.key > :after AND f.declared = 0 ORDER BY f.key LIMIT :limit);

-- flow_drop_lanes --
WITH given (key) AS (VALUES :rows)
DELETE FROM lane WHERE flow IN (SELECT key FROM given);

-- flow_drop --
WITH given (key) AS (VALUES :rows)
DELETE FROM flow WHERE key IN (SELECT key FROM given);

-- messages_known --
-- The given ids that a message, a dead letter or a kept run has, and those whose open_dedup belongs to another message or
-- batch that has not ended.
WITH given (id, open_dedup) AS (VALUES :rows)
SELECT json_group_array(g.id) FROM given g
WHERE EXISTS (SELECT 1 FROM message m WHERE m.id = g.id)
    OR EXISTS (SELECT 1 FROM run r WHERE r.id = g.id)
    OR g.open_dedup IS NOT NULL AND EXISTS (
        SELECT 1 FROM message m WHERE m.open_dedup = g.open_dedup AND m.stage < 3);

-- message_add --
WITH given (
    id, lane, due, batch, keep, body, headers, retry, label, parent, parent_step, depth, on_failure, open_dedup
) AS (VALUES :rows)
INSERT INTO message (
    id, lane, due, batch, keep, body, headers, retry, label, parent, parent_step, depth, on_failure, open_dedup,
    created_at)
SELECT id, lane, due, batch, keep, body, headers, retry, label, parent, parent_step, depth, on_failure, open_dedup, :now
FROM given WHERE id IS NOT NULL;

-- message_candidates --
-- Started messages by due time, then fresh messages by id, up to the limit of each.
SELECT json_group_array(json_array(
    id, fence, batch, number, item, failures, losses, body, headers, retry, started_at, depth, data, waits))
FROM (
    SELECT * FROM (
        SELECT m.id, m.fence, m.batch, m.number, i.id AS item, m.failures, m.losses, m.body, m.headers, m.retry,
            m.started_at, m.depth, i.data, m.waits
        FROM message m LEFT JOIN item i ON i.batch = m.batch AND i.number = m.number
        WHERE m.lane = :lane AND m.owner IS NULL AND m.stage = 1 AND m.due <= :now
        ORDER BY m.due, m.id LIMIT :limit)
    UNION ALL
    SELECT * FROM (
        SELECT m.id, m.fence, m.batch, m.number, i.id AS item, m.failures, m.losses, m.body, m.headers, m.retry,
            m.started_at, m.depth, i.data, m.waits
        FROM message m LEFT JOIN item i ON i.batch = m.batch AND i.number = m.number
        WHERE m.lane = :lane AND m.owner IS NULL AND m.stage = 0 AND m.due = 0
        ORDER BY m.id LIMIT :limit)
);

-- message_open_of_batch --
-- Messages of the items of a batch or of its layers: up to :limit of each state, of those that are looked at.
WITH lanes (key) AS MATERIALIZED (
    SELECT l.key FROM lane l
    WHERE l.batch = :batch AND (l.destination = (
        SELECT o.destination FROM batch b JOIN lane o ON o.key = b.lane WHERE b.key = :batch)) = (NOT :layers)
    LIMIT :lanes),
seen (id) AS (
    SELECT * FROM (SELECT m.id FROM lanes l CROSS JOIN message m
        ON m.lane = l.key AND m.owner IS NULL AND m.stage IN (1, 2) LIMIT :look)
    UNION ALL
    SELECT * FROM (SELECT m.id FROM lanes l CROSS JOIN message m
        ON m.lane = l.key AND m.owner IS NULL AND m.stage = 0 LIMIT :limit)
    UNION ALL
    SELECT * FROM (SELECT m.id FROM worker w CROSS JOIN message m ON m.owner = w.key
        WHERE m.batch = :batch AND (m.number < 0) = :layers LIMIT :look)
    UNION ALL
    SELECT m.id FROM message m WHERE :layers AND m.id = :completion AND m.owner IS NULL AND m.stage < 3),
known AS (
    SELECT m.*, CASE
        WHEN m.owner IS NOT NULL THEN 'running'
        WHEN m.waits = 1 THEN 'retrying'
        WHEN m.waits = 2 THEN 'parked'
        WHEN m.losses > 0 THEN 'lost'
        WHEN m.stage > 0 AND m.due > :now THEN 'suspended'
        ELSE 'waiting' END AS state
    FROM seen s CROSS JOIN message m ON m.id = s.id),
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY state ORDER BY CASE state WHEN 'running' THEN started_at ELSE due END, id) AS place
    FROM known)
SELECT json_group_array(json_array(
    id, destination, flow, number, item, state, due_at, started_at, attempts, error, worker))
FROM (
    SELECT r.id, l.destination, l.flow, r.number, coalesce(i.id, '') AS item, r.state,
        CASE WHEN r.owner IS NULL AND r.due > :now AND r.due < :never THEN r.due END AS due_at, r.started_at, r.attempts,
        CASE WHEN r.number < 0 THEN r.error ELSE i.error END AS error, w.name AS worker
    FROM ranked r JOIN lane l ON l.key = r.lane LEFT JOIN worker w ON w.key = r.owner
        LEFT JOIN item i ON i.batch = r.batch AND i.number = r.number
    WHERE r.place <= :limit ORDER BY r.place);

-- message_candidate --
SELECT json_group_array(json_array(
    id, fence, batch, number, item, failures, losses, body, headers, retry, started_at, depth, data, waits))
FROM (
        SELECT m.id, m.fence, m.batch, m.number, i.id AS item, m.failures, m.losses, m.body, m.headers, m.retry,
            m.started_at, m.depth, i.data, m.waits
        FROM message m LEFT JOIN item i ON i.batch = m.batch AND i.number = m.number
        WHERE m.id = :id);

-- message_lease --
WITH given (id) AS (VALUES :rows)
UPDATE message SET owner = :owner, fence = fence + 1, started_at = coalesce(started_at, :now), stage = max(stage, 1),
    waits = 0
WHERE id IN (SELECT id FROM given);

-- message_of_fence --
-- A message with this fence, or that this worker holds with the next one: its lane and destination, whether the worker
-- holds it with the next one, whether somebody holds it, and 1 if it may start as far as its limits let it.
SELECT json_group_array(json_array(
    l.key, l.destination, m.fence > :fence, m.owner IS NOT NULL,
    l.closed = 0 AND (f.paused = 0 OR f.paused_until <= :now) AND f.parked_until <= :now
        AND (p.key IS NULL OR (p.paused = 0 OR p.paused_until <= :now) AND p.parked_until <= :now)))
FROM message m CROSS JOIN lane l ON l.key = m.lane CROSS JOIN flow f ON f.key = l.flow LEFT JOIN flow p ON p.key = l.parent
WHERE m.id = :id AND m.stage < 3
    AND (m.fence = :fence AND (m.owner IS NULL OR m.cancelled = 0) OR m.owner = :owner AND m.fence = :fence + 1);

-- message_lease_one --
-- Not as one that is claimed alone.
UPDATE message SET owner = :owner, fence = fence + 1, started_at = coalesce(started_at, :now), stage = 1, waits = 0
WHERE id = :id;

-- message_held --
-- The messages of the given claims that are still held.
WITH given (slot, id, fence) AS (VALUES :rows)
SELECT json_group_array(json_array(
    g.slot, m.lane, m.batch, m.number, m.cancelled, m.keep, m.failures, m.losses, m.stage, m.parent, m.parent_step,
    m.linked, m.on_failure, m.attempts, m.waits))
FROM given g CROSS JOIN message m ON m.id = g.id AND m.fence = g.fence
WHERE m.owner IS NOT NULL;

-- message_release --
WITH given (id, due, failures, losses, error, stage, waits, attempts) AS (VALUES :rows)
UPDATE message SET
    owner = NULL, due = g.due, failures = g.failures, losses = g.losses, error = g.error, stage = g.stage,
    waits = g.waits, attempts = g.attempts
FROM given g WHERE message.id = g.id;

-- message_drop --
WITH given (id) AS (VALUES :rows)
DELETE FROM message WHERE id IN (SELECT id FROM given);

-- message_reset_counts --
-- A recorded outcome resets failures and losses, if its claim is held and not cancelled.
WITH given (id, fence) AS (VALUES :rows)
UPDATE message SET failures = 0, losses = 0, stage = 1
FROM given g WHERE message.id = g.id AND message.fence = g.fence
    AND owner IS NOT NULL AND cancelled = 0 AND (failures > 0 OR losses > 0);

-- message_reset_woken --
-- The same for outcomes that a claim records itself: due timers and arrivals.
WITH given (id) AS (VALUES :rows)
UPDATE message SET failures = 0, losses = 0, stage = 1
WHERE id IN (SELECT id FROM given) AND (failures > 0 OR losses > 0);

-- message_keep --
WITH given (id, state, result, error) AS (VALUES :rows)
INSERT INTO run (
    id, destination, state, batch, payload, result, error, failures, created_at, ended_at, label, started_at, parent)
SELECT m.id, l.destination, g.state, m.batch, m.body, g.result, g.error, m.failures, m.created_at, :now,
    m.label, m.started_at, m.parent
FROM given g CROSS JOIN message m ON m.id = g.id JOIN lane l ON l.key = m.lane
WHERE true
ON CONFLICT (id) DO NOTHING;

-- message_make_dead_letter --
-- A dead letter is a marked message. Its parent has been notified already.
WITH given (id, error, failures, losses, attempts, status, fingerprint) AS (VALUES :rows)
UPDATE message SET
    owner = NULL, stage = 3, due = 0, died_at = :now, error = g.error, failures = g.failures, losses = g.losses,
    attempts = g.attempts, status = g.status, fingerprint = g.fingerprint, failure = NULL,
    cancelled = 0, linked = 0, keep = keep | 2
FROM given g WHERE message.id = g.id;

-- message_log_attempts --
-- Add failed attempts, the latest first, before those that the message has, of which the oldest go.
WITH given (id, attempts) AS (VALUES :rows)
UPDATE message SET log = (
    SELECT json_group_array(json(value)) FROM (
        SELECT value FROM (
            SELECT 0 AS part, key, value FROM json_each(g.attempts)
            UNION ALL
            SELECT 1, key, value FROM json_each(coalesce(message.log, '[]')))
        ORDER BY part, key LIMIT :most))
FROM given g WHERE message.id = g.id;

-- message_begin_failure --
-- The failure function of dead letters is called.
WITH given (id, failure) AS (VALUES :rows)
UPDATE message SET failure = g.failure
FROM given g WHERE message.id = g.id AND stage = 3;

-- message_end_failure --
-- Only the latest call counts, and only while its message is a dead letter.
WITH given (id, call, state, result, error) AS (VALUES :rows)
UPDATE message
SET failure = json_set(failure, '$[2]', g.state, '$[3]', :now, '$[4]', g.result, '$[5]', g.error)
FROM given g WHERE message.id = g.id AND stage = 3 AND json_extract(failure, '$[0]') = g.call;

-- message_dead --
SELECT json_group_array(json_array(
    lane, destination, lane_batch, parent, batch, number, fence, on_failure, failure))
FROM (
    SELECT m.lane, l.destination, l.batch AS lane_batch, l.parent, m.batch, m.number, m.fence, m.on_failure, m.failure
    FROM message m JOIN lane l ON l.key = m.lane WHERE m.id = :id AND m.stage = 3);

-- message_redrive --
UPDATE message SET
    stage = 1, due = 0, died_at = NULL, error = NULL, failures = 0, losses = 0, keep = keep & 1, status = NULL,
    fingerprint = NULL, failure = NULL, lane = :lane, retry = coalesce(:retry, retry),
    linked = EXISTS (SELECT 1 FROM webhook w WHERE w.run = :id)
WHERE id = :id;

-- message_of_worker --
SELECT json_group_array(json_array(
    m.id, m.fence, m.lane, m.batch, m.number, m.cancelled, m.keep, m.failures, m.losses, m.stage, m.parent, m.parent_step,
    m.linked, m.on_failure, m.attempts, m.waits))
FROM message m WHERE m.owner = :worker;

-- message_of_claims --
WITH given (id, fence) AS (VALUES :rows)
SELECT json_group_array(json_array(
    m.id, m.fence, m.lane, m.batch, m.number, m.cancelled, m.keep, m.failures, m.losses, m.stage, m.parent, m.parent_step,
    m.linked, m.on_failure, m.attempts, m.waits))
FROM given g CROSS JOIN message m ON m.id = g.id AND m.fence = g.fence
WHERE m.owner = :worker;

-- message_cancel_leased --
UPDATE message SET cancelled = 1 WHERE id = :id AND owner IS NOT NULL;

-- message_waiting --
SELECT json_group_array(json_array(id, lane, batch, number, keep, parent, parent_step, linked, waits))
FROM message WHERE id = :id AND owner IS NULL AND stage < 3;

-- message_waiting_of_batch --
SELECT json_group_array(json_array(id, lane, batch, number, keep, parent, parent_step, linked, waits)) FROM (
    SELECT m.id, m.lane, m.batch, m.number, m.keep, m.parent, m.parent_step, m.linked, m.waits
    FROM lane l CROSS JOIN message m ON m.lane = l.key AND m.owner IS NULL AND m.stage < 3
    WHERE l.batch = :batch AND m.batch = :batch LIMIT :limit);

-- message_waiting_of_parents --
WITH given (parent) AS (VALUES :rows)
SELECT json_group_array(json_array(
    m.id, m.lane, m.batch, m.number, m.keep, m.parent, m.parent_step, m.linked, m.waits))
FROM given g CROSS JOIN message m ON m.parent = g.parent WHERE m.owner IS NULL AND m.stage < 3;

-- message_cancel_leased_of_parents --
WITH given (parent) AS (VALUES :rows)
UPDATE message SET cancelled = 1 WHERE owner IS NOT NULL AND parent IN (SELECT parent FROM given);

-- batches_of_parents --
WITH given (parent) AS (VALUES :rows)
SELECT json_group_array(b.key) FROM given g CROSS JOIN batch b ON b.parent = g.parent WHERE b.ended_at IS NULL;

-- message_open_of_function --
-- Runs that have not ended and are not cancelled.
SELECT json_group_array(id) FROM (
    SELECT m.id FROM lane l CROSS JOIN message m ON m.lane = l.key AND m.keep = 1
    WHERE l.destination = :destination AND m.cancelled = 0 AND (:label IS NULL OR m.label = :label) LIMIT :limit);

-- message_open_of_label --
SELECT json_group_array(id) FROM (
    SELECT id FROM message WHERE label = :label AND label IS NOT NULL AND cancelled = 0 AND stage < 3 LIMIT :limit);

-- message_mark_linked --
-- It waits for events, webhooks or children, which its end clears away.
WITH given (id) AS (VALUES :rows)
UPDATE message SET linked = 1 WHERE id IN (SELECT id FROM given) AND linked = 0 AND stage < 3;

-- message_cancel_leased_of_batch --
UPDATE message SET cancelled = 1 WHERE owner IS NOT NULL AND batch = :batch;

-- step_put --
-- Only for held claims that are not cancelled.
WITH given (run, fence, number, name, kind, state, position, value, error, failures, due, at) AS (VALUES :rows)
INSERT INTO step (run, number, name, kind, state, position, value, error, failures, due, at)
SELECT g.run, g.number, g.name, g.kind, g.state, g.position, g.value, g.error, g.failures, g.due, g.at
FROM given g CROSS JOIN message m ON m.id = g.run AND m.fence = g.fence
WHERE m.owner IS NOT NULL AND m.cancelled = 0
ON CONFLICT (run, number) DO UPDATE SET
    state = excluded.state, position = excluded.position, value = excluded.value, error = excluded.error,
    failures = excluded.failures, due = excluded.due, at = excluded.at;

-- step_resolve --
-- Due timers and arrivals, recorded by the claim of their run.
WITH given (run, number, name, kind, state, position, value, error, failures, due, at) AS (VALUES :rows)
UPDATE step SET state = g.state, position = g.position, value = g.value, error = g.error, at = g.at
FROM given g WHERE step.run = g.run AND step.number = g.number;

-- step_refused --
-- The given claims that may not write, and whether the reason is a cancellation.
WITH given (slot, id, fence) AS (VALUES :rows)
SELECT json_group_array(json_array(g.slot, coalesce(m.cancelled, 0)))
FROM given g LEFT JOIN message m ON m.id = g.id AND m.fence = g.fence AND m.owner IS NOT NULL
WHERE g.id IS NOT NULL AND (m.id IS NULL OR m.cancelled = 1);

-- step_written --
-- The given steps that are already recorded with this state and position.
WITH given (slot, run, number, state, position) AS (VALUES :rows)
SELECT json_group_array(g.slot) FROM given g
CROSS JOIN step s ON s.run = g.run AND s.number = g.number AND s.state = g.state AND s.position = g.position;

-- step_of_runs --
WITH given (run) AS (VALUES :rows)
SELECT json_group_array(json_array(run, number, name, kind, state, position, value, error, failures, due, at))
FROM (SELECT s.* FROM given g CROSS JOIN step s ON s.run = g.run ORDER BY s.run, s.number);

-- step_drop --
WITH given (run) AS (VALUES :rows)
DELETE FROM step WHERE run IN (SELECT run FROM given);

-- step_drop_some --
-- Steps that a redriven run executes again.
WITH given (run, number) AS (VALUES :rows)
DELETE FROM step WHERE (run, number) IN (SELECT run, number FROM given);

-- arrival_of_runs --
WITH given (run) AS (VALUES :rows)
SELECT json_group_array(json_array(run, number, state, value, error, at)) FROM (
    SELECT a.* FROM given g CROSS JOIN arrival a ON a.run = g.run ORDER BY a.key);

-- arrival_add --
-- Only if the run has not ended and its step still waits.
WITH given (run, number, state, value, error) AS (VALUES :rows)
INSERT INTO arrival (run, number, state, value, error, at)
SELECT g.run, g.number, g.state, g.value, g.error, :now
FROM given g CROSS JOIN message m ON m.id = g.run AND m.stage < 3
    CROSS JOIN step s ON s.run = g.run AND s.number = g.number AND s.state = 'pending';

-- arrival_known_runs --
-- The given runs that have an arrival.
WITH given (run) AS (VALUES :rows)
SELECT json_group_array(run) FROM given WHERE run IN (SELECT run FROM arrival);

-- arrival_drop --
WITH given (run) AS (VALUES :rows)
DELETE FROM arrival WHERE run IN (SELECT run FROM given);

-- message_suspended --
-- The given runs that are suspended and have an arrival, with their lanes; a run that waits for its next attempt is left
-- alone.
WITH given (run) AS (VALUES :rows)
SELECT json_group_array(json_array(m.id, m.lane)) FROM message m
WHERE m.id IN (SELECT run FROM given) AND m.owner IS NULL AND m.stage IN (1, 2) AND m.error IS NULL
    AND m.due > :now
    AND EXISTS (SELECT 1 FROM arrival a WHERE a.run = m.id);

-- message_wake --
WITH given (run) AS (VALUES :rows)
UPDATE message SET due = 0 WHERE id IN (SELECT run FROM given);

-- listener_add --
INSERT INTO listener (run, number, event, since, until) VALUES (:run, :number, :event, :now, :until)
ON CONFLICT (run, number) DO NOTHING;

-- listener_drop --
WITH given (run, number) AS (VALUES :rows)
DELETE FROM listener WHERE (run, number) IN (SELECT run, number FROM given);

-- listener_drop_of_runs --
WITH given (run) AS (VALUES :rows)
DELETE FROM listener WHERE run IN (SELECT run FROM given);

-- listener_of_event --
SELECT json_group_array(json_array(run, number)) FROM (
    SELECT run, number FROM listener
    WHERE event = :event AND (until = 0 OR until > :now) ORDER BY since, run, number);

-- listener_of_run --
-- One step only, if several branches of the run wait for the same event.
SELECT json_group_array(json_array(run, number)) FROM (
    SELECT run, number FROM listener
    WHERE event = :event AND run = :run AND (until = 0 OR until > :now) ORDER BY since, number LIMIT 1);

-- listener_read --
SELECT json_group_array(json_array(run, name, since, until)) FROM (
    SELECT l.run, s.name, l.since, l.until FROM listener l JOIN step s ON s.run = l.run AND s.number = l.number
    WHERE l.event = :event AND (l.until = 0 OR l.until > :now) ORDER BY l.since, l.run, l.number);

-- kept_event_add --
INSERT INTO kept_event (run, event, data, at)
SELECT id, :event, :data, :now FROM message
WHERE id = :run AND cancelled = 0 AND stage < 3 AND (SELECT count(*) FROM kept_event WHERE run = :run) < :most;

-- kept_event_oldest --
SELECT json_array(key, data) FROM kept_event WHERE run = :run AND event = :event ORDER BY key LIMIT 1;

-- kept_event_delete --
DELETE FROM kept_event WHERE key = :key;

-- kept_event_drop --
WITH given (run) AS (VALUES :rows)
DELETE FROM kept_event WHERE run IN (SELECT run FROM given);

-- webhook_add --
INSERT INTO webhook (token, run) VALUES (:token, :run) ON CONFLICT (token) DO NOTHING;

-- webhook_run --
SELECT w.run FROM webhook w JOIN message m ON m.id = w.run WHERE w.token = :token AND m.stage < 3;

-- webhook_drop --
WITH given (run) AS (VALUES :rows)
DELETE FROM webhook WHERE run IN (SELECT run FROM given);

-- run_outcome --
-- The outcome of a run that has ended, kept or as a dead letter, if this is its parent.
SELECT json_group_array(json_array(state, result, error)) FROM (
    SELECT state, result, error FROM run WHERE id = :id AND parent = :parent
    UNION ALL
    SELECT 'failed', NULL, error FROM message WHERE id = :id AND parent = :parent AND stage = 3);

-- run_drop --
DELETE FROM run WHERE id = :id;

-- run_read --
-- The message, dead letter or kept run of this id.
SELECT json_group_array(json_array(
    id, destination, state, created_at, started_at, ended_at, payload, result, error, failures, batch, label, parent,
    flow_key, due_at))
FROM (
    SELECT m.id, l.destination,
        CASE WHEN m.stage = 3 THEN 'failed' WHEN m.owner IS NULL THEN 'waiting' ELSE 'running' END AS state,
        m.created_at, m.started_at, m.died_at AS ended_at, m.body AS payload, NULL AS result, m.error, m.failures,
        b.id AS batch, m.label, m.parent, CASE WHEN m.owner IS NULL AND m.stage < 3 THEN l.flow END AS flow_key,
        CASE WHEN m.owner IS NULL AND m.stage < 3 AND m.due > :now AND m.due < :never THEN m.due END AS due_at
    FROM message m JOIN lane l ON l.key = m.lane LEFT JOIN batch b ON b.key = m.batch WHERE m.id = :id
    UNION ALL
    SELECT r.id, r.destination, r.state, r.created_at, r.started_at, r.ended_at, r.payload, r.result, r.error,
        r.failures, b.id, r.label, r.parent, NULL, NULL
    FROM run r LEFT JOIN batch b ON b.key = r.batch WHERE r.id = :id
    LIMIT 1);

-- run_list --
-- Payloads and results are not read. Messages and kept runs are each read from an index of (created_at, id), newest first, up to the limit.
SELECT json_group_array(json_array(
    id, destination, state, created_at, started_at, ended_at, payload, result, error, failures, batch, label, parent,
    flow_key, due_at))
FROM (
    SELECT * FROM (
        SELECT m.id, l.destination,
            CASE WHEN m.stage = 3 THEN 'failed' WHEN m.owner IS NULL THEN 'waiting' ELSE 'running' END AS state,
            m.created_at, m.started_at, m.died_at AS ended_at, 'null' AS payload, NULL AS result, m.error, m.failures,
            b.id AS batch, m.label, m.parent, CASE WHEN m.owner IS NULL AND m.stage < 3 THEN l.flow END AS flow_key,
            CASE WHEN m.owner IS NULL AND m.stage < 3 AND m.due > :now AND m.due < :never THEN m.due END AS due_at
        FROM message m JOIN lane l ON l.key = m.lane LEFT JOIN batch b ON b.key = m.batch
        WHERE m.keep > 0 AND (m.created_at, m.id) < (:before_at, :before_id)
            AND (:state IS NULL
                OR CASE WHEN m.stage = 3 THEN 'failed' WHEN m.owner IS NULL THEN 'waiting' ELSE 'running' END = :state)
            AND (:destination IS NULL OR l.destination = :destination) AND (:label IS NULL OR m.label = :label)
        ORDER BY m.created_at DESC, m.id DESC LIMIT :limit)
    UNION ALL
    SELECT * FROM (
        SELECT r.id, r.destination, r.state, r.created_at, r.started_at, r.ended_at, 'null', NULL, r.error,
            r.failures, b.id, r.label, r.parent, NULL, NULL
        FROM run r LEFT JOIN batch b ON b.key = r.batch
        WHERE (r.created_at, r.id) < (:before_at, :before_id) AND (:state IS NULL OR r.state = :state)
            AND (:destination IS NULL OR r.destination = :destination) AND (:label IS NULL OR r.label = :label)
        ORDER BY r.created_at DESC, r.id DESC LIMIT :limit)
    ORDER BY 4 DESC, 1 DESC LIMIT :limit);

-- dead_letter_read --
SELECT json_group_array(json_array(
    id, destination, flow, parallelism, rate, period, burst, body, headers, retry, batch, keep, label, parent,
    parent_step, depth, on_failure, open_dedup, error, failures, losses, created_at, started_at, died_at, item, number,
    attempts, log, status, fingerprint, workflow, batch_label, failure))
FROM (
    SELECT m.id, l.destination, l.flow, f.parallelism, f.rate, f.period, f.burst, m.body, m.headers, m.retry,
        b.id AS batch, m.keep & 1 AS keep, m.label, m.parent, m.parent_step, m.depth,
        CASE WHEN m.number < 0 THEN m.on_failure ELSE b.on_failure END AS on_failure, m.open_dedup, m.error,
        m.failures, m.losses, m.created_at, m.started_at, m.died_at, i.id AS item, m.number, m.attempts, m.log,
        m.status, m.fingerprint, w.name AS workflow, b.label AS batch_label, m.failure
    FROM message m JOIN lane l ON l.key = m.lane JOIN flow f ON f.key = l.flow
        LEFT JOIN batch b ON b.key = m.batch LEFT JOIN workflow w ON w.key = b.workflow
        LEFT JOIN item i ON i.batch = m.batch AND i.number = m.number
    WHERE m.id = :id AND m.died_at IS NOT NULL);

-- dead_letter_list --
-- Bodies, headers and attempts are not read.
SELECT json_group_array(json_array(
    id, destination, flow, parallelism, rate, period, burst, body, headers, retry, batch, keep, label, parent,
    parent_step, depth, on_failure, open_dedup, error, failures, losses, created_at, started_at, died_at, item, number,
    attempts, log, status, fingerprint, workflow, batch_label, failure))
FROM (
    SELECT m.id, l.destination, l.flow, f.parallelism, f.rate, f.period, f.burst, 'null' AS body, NULL AS headers, m.retry,
        b.id AS batch, m.keep & 1 AS keep, m.label, m.parent, m.parent_step, m.depth,
        CASE WHEN m.number < 0 THEN m.on_failure ELSE b.on_failure END AS on_failure, m.open_dedup, m.error,
        m.failures, m.losses, m.created_at, m.started_at, m.died_at, i.id AS item, m.number, m.attempts, NULL AS log,
        m.status, m.fingerprint, w.name AS workflow, b.label AS batch_label, m.failure
    FROM message m JOIN lane l ON l.key = m.lane JOIN flow f ON f.key = l.flow
        LEFT JOIN batch b ON b.key = m.batch LEFT JOIN workflow w ON w.key = b.workflow
        LEFT JOIN item i ON i.batch = m.batch AND i.number = m.number
    WHERE m.died_at IS NOT NULL AND (m.died_at, m.id) < (:before_at, :before_id)
        AND (:workflow IS NULL OR w.name = :workflow OR m.batch IS NULL AND l.destination = :workflow)
        AND (:destination IS NULL OR l.destination = :destination
            OR :is_url AND substr(:destination, -length(l.destination)) = l.destination)
        AND (:run IS NULL OR m.id = :run OR m.parent = :run)
        AND (:item IS NULL OR i.id = :item) AND (:label IS NULL OR coalesce(m.label, b.label) = :label)
        AND (:status IS NULL OR m.status = :status) AND (:fingerprint IS NULL OR m.fingerprint = :fingerprint)
        AND (:since IS NULL OR m.died_at >= :since) AND (:until IS NULL OR m.died_at < :until)
    ORDER BY m.died_at DESC, m.id DESC LIMIT :limit);

-- dead_letter_list_of_batch --
SELECT json_group_array(json_array(
    id, destination, flow, parallelism, rate, period, burst, body, headers, retry, batch, keep, label, parent,
    parent_step, depth, on_failure, open_dedup, error, failures, losses, created_at, started_at, died_at, item, number,
    attempts, log, status, fingerprint, workflow, batch_label, failure))
FROM (
    SELECT m.id, l.destination, l.flow, f.parallelism, f.rate, f.period, f.burst, 'null' AS body, NULL AS headers, m.retry,
        b.id AS batch, m.keep & 1 AS keep, m.label, m.parent, m.parent_step, m.depth,
        CASE WHEN m.number < 0 THEN m.on_failure ELSE b.on_failure END AS on_failure, m.open_dedup, m.error,
        m.failures, m.losses, m.created_at, m.started_at, m.died_at, i.id AS item, m.number, m.attempts, NULL AS log,
        m.status, m.fingerprint, w.name AS workflow, b.label AS batch_label, m.failure
    FROM message m JOIN lane l ON l.key = m.lane JOIN flow f ON f.key = l.flow
        LEFT JOIN batch b ON b.key = m.batch LEFT JOIN workflow w ON w.key = b.workflow
        LEFT JOIN item i ON i.batch = m.batch AND i.number = m.number
    WHERE m.id IN (
        SELECT d.id FROM lane k CROSS JOIN message d ON d.lane = k.key AND d.owner IS NULL AND d.stage = 3
        WHERE k.batch = :batch
        UNION ALL
        -- Completions are in no lane of the batch.
        SELECT id FROM message WHERE id >= :completion AND id < :completion || '~' AND batch = :batch AND stage = 3)
        AND (m.died_at, m.id) < (:before_at, :before_id)
        AND (:workflow IS NULL OR w.name = :workflow OR m.batch IS NULL AND l.destination = :workflow)
        AND (:destination IS NULL OR l.destination = :destination
            OR :is_url AND substr(:destination, -length(l.destination)) = l.destination)
        AND (:run IS NULL OR m.id = :run OR m.parent = :run)
        AND (:item IS NULL OR i.id = :item) AND (:label IS NULL OR coalesce(m.label, b.label) = :label)
        AND (:status IS NULL OR m.status = :status) AND (:fingerprint IS NULL OR m.fingerprint = :fingerprint)
        AND (:since IS NULL OR m.died_at >= :since) AND (:until IS NULL OR m.died_at < :until)
    ORDER BY m.died_at DESC, m.id DESC LIMIT :limit);

-- dead_letter_groups --
-- The example is the latest.
SELECT json_group_array(json_array(fingerprint, size, first_at, last_at, example, error)) FROM (
    SELECT g.*, d.error FROM (
        SELECT coalesce(m.fingerprint, '') AS fingerprint, count(*) AS size, min(m.died_at) AS first_at,
            max(m.died_at) AS last_at, substr(max(printf('%016d', m.died_at) || m.id), 17) AS example
        FROM message m JOIN lane l ON l.key = m.lane
            LEFT JOIN batch b ON b.key = m.batch LEFT JOIN workflow w ON w.key = b.workflow
            LEFT JOIN item i ON i.batch = m.batch AND i.number = m.number
        WHERE m.died_at IS NOT NULL AND (:batch IS NULL OR m.batch = :batch) AND (m.died_at, m.id) < (:before_at, :before_id)
        AND (:workflow IS NULL OR w.name = :workflow OR m.batch IS NULL AND l.destination = :workflow)
        AND (:destination IS NULL OR l.destination = :destination
            OR :is_url AND substr(:destination, -length(l.destination)) = l.destination)
        AND (:run IS NULL OR m.id = :run OR m.parent = :run)
        AND (:item IS NULL OR i.id = :item) AND (:label IS NULL OR coalesce(m.label, b.label) = :label)
        AND (:status IS NULL OR m.status = :status) AND (:fingerprint IS NULL OR m.fingerprint = :fingerprint)
        AND (:since IS NULL OR m.died_at >= :since) AND (:until IS NULL OR m.died_at < :until)
        GROUP BY coalesce(m.fingerprint, '')) g
        JOIN message d ON d.id = g.example
    ORDER BY g.size DESC, g.last_at DESC, g.fingerprint LIMIT :limit);

-- dedup_under_way --
SELECT id FROM batch WHERE open_dedup = :open_dedup AND ended_at IS NULL
UNION ALL
SELECT id FROM message WHERE open_dedup = :open_dedup AND stage < 3
LIMIT 1;

-- workflow_key --
SELECT key FROM workflow WHERE name = :name;

-- workflow_add --
INSERT INTO workflow (name) VALUES (:name);

-- ledger_key --
SELECT key FROM ledger WHERE name = :name;

-- ledger_add --
INSERT INTO ledger (name) VALUES (:name);

-- batch_key --
SELECT key FROM batch WHERE id = :id;

-- batch_known --
-- A row if a batch has this id, or if another batch or message with the same open_dedup has not ended.
SELECT EXISTS (SELECT 1 FROM batch WHERE id = :id)
    OR :open_dedup IS NOT NULL AND EXISTS (
        SELECT 1 FROM batch WHERE open_dedup = :open_dedup AND ended_at IS NULL);

-- batch_head --
SELECT json_array(
    key, id, ledger, lane, params, headers, complete, complete_flow, on_failure, notify_url, ledger_ttl, keep_results,
    force OR named, parent, parent_step, depth, force, retry_of IS NOT NULL,
    (SELECT o.key FROM batch o WHERE o.id = batch.retry_of), canary, json_extract(failure_budget, '$[4]'),
    json_extract(failure_budget, '$[5]'))
FROM batch WHERE key = :batch;

-- batch_open --
INSERT INTO batch (
    id, workflow, ledger, state, params, headers, complete, complete_flow, on_failure, notify_url, ledger_ttl,
    keep_results, force, named, label, open_dedup, parent, parent_step, depth, retry_of, priority, failure_budget,
    canary, approve_under, held_by, created_at)
VALUES (
    :id, :workflow, :ledger, 'pending', :params, :headers, :complete, :complete_flow, :on_failure, :notify_url,
    :ledger_ttl, :keep_results, :force, :named, :label, :open_dedup, :parent, :parent_step, :depth, :retry_of,
    :priority, :failure_budget, :canary, :approve_under, :held_by, :now);

-- batch_lane --
-- The lane of the batch's items.
UPDATE batch SET lane = :lane WHERE key = :batch;

-- batch_takes_messages --
SELECT ended_at IS NULL AND state <> 'cancelling' FROM batch WHERE key = :batch;

-- batch_enter --
UPDATE batch SET entered = 1, started_at = :now, total = coalesce(:total, total),
    left_out = left_out + :left_out, state = CASE state WHEN 'pending' THEN 'open' ELSE state END
WHERE key = :batch AND entered = 0;

-- batch_page --
UPDATE batch SET pages = pages + 1, chunks = chunks + :chunks, eligible = eligible + :eligible,
    already_processed = already_processed + :already_processed, duplicates = duplicates + :duplicates,
    left_out = left_out + :left_out
WHERE key = :batch;

-- batch_start_items --
UPDATE batch SET open = open + :open, duplicates = duplicates + :duplicates, in_flight = in_flight + :in_flight,
    already_processed = already_processed + :already_processed
WHERE key = :batch;

-- batch_end_walk --
UPDATE batch SET total = coalesce(:total, total), held_by = held_by & ~1 WHERE key = :batch;

-- batch_change_counts --
UPDATE batch SET working = working + :working, open = open + :open, succeeded = succeeded + :succeeded,
    failed = failed + :failed, cancelled = cancelled + :cancelled, retrying = retrying + :retrying,
    parked = parked + :parked, worked_ms = worked_ms + :worked_ms
WHERE key = :batch;

-- batch_break_off --
-- The walk over the pages broke off; started items continue.
UPDATE batch SET error = coalesce(error, :error), entered = 1
WHERE key = :batch AND ended_at IS NULL AND state <> 'cancelling';

-- batch_advance --
-- Seal a batch whose pages are all walked, and end it if no item is open; returns a row only if it has ended.
UPDATE batch SET
    ended_at = CASE WHEN open = 0 THEN :now END, paused = CASE WHEN open = 0 THEN 0 ELSE paused END,
    stop_reason = CASE WHEN open > 0 OR state = 'cancelling' THEN stop_reason END,
    state = CASE WHEN open > 0 THEN CASE state WHEN 'cancelling' THEN state ELSE 'sealed' END
        WHEN state = 'cancelling' THEN 'cancelled' WHEN error IS NOT NULL THEN 'failed' ELSE 'completed' END
WHERE key = :batch AND ended_at IS NULL AND working = 0 AND (entered = 1 OR state = 'cancelling')
    AND (open = 0 OR state = 'open')
RETURNING ended_at IS NOT NULL;

-- batch_cancel --
UPDATE batch SET state = 'cancelling', stop_reason = CASE state WHEN 'cancelling' THEN stop_reason ELSE :reason END
WHERE key = :batch AND ended_at IS NULL;

-- batch_pause --
UPDATE batch SET paused = 1, stop_reason = :reason WHERE key = :batch AND ended_at IS NULL AND state <> 'cancelling';

-- batch_resume --
UPDATE batch SET paused = 0, stop_reason = NULL, budget_succeeded = succeeded, budget_failed = failed
WHERE key = :batch AND paused = 1 AND state <> 'cancelling';

-- batch_set_failure_budget --
UPDATE batch SET failure_budget = :budget, budget_succeeded = succeeded, budget_failed = failed
WHERE key = :batch AND ended_at IS NULL AND state <> 'cancelling';

-- batch_exceeded_budget --
-- The action of a failure budget that is exceeded, unless the batch is stopped already or has nothing left to do.
SELECT json_extract(failure_budget, '$[3]') FROM (
    SELECT *, max(0, failed - budget_failed) AS bad, max(0, succeeded - budget_succeeded) AS good FROM batch
    WHERE key = :batch AND failure_budget IS NOT NULL)
WHERE state <> 'cancelling' AND (open > 0 OR working > 0)
    AND (NOT paused OR json_extract(failure_budget, '$[3]') = 'cancel')
    AND (bad > json_extract(failure_budget, '$[0]')
        OR good + bad >= json_extract(failure_budget, '$[2]')
            AND bad > json_extract(failure_budget, '$[1]') * (good + bad));

-- batch_set_priority --
UPDATE batch SET priority = :priority WHERE key = :batch AND ended_at IS NULL AND state <> 'cancelling';

-- batch_approve --
UPDATE batch SET held_by = held_by & ~8 WHERE key = :batch AND held_by & 8 AND ended_at IS NULL AND state <> 'cancelling';

-- batch_end_canary --
-- Approve a batch if so few items of its canary have failed; returns a row if the canary has just ended.
UPDATE batch SET held_by = CASE WHEN failed <= approve_under * (succeeded + failed + cancelled) THEN held_by & ~8 ELSE held_by END
WHERE key = :batch AND held_by & 8 AND open = 0 AND succeeded + failed + cancelled >= canary
    AND ended_at IS NULL AND state <> 'cancelling'
    AND EXISTS (SELECT 1 FROM lane WHERE batch = :batch AND held = 1 AND ready_at IS NOT NULL)
RETURNING held_by & 8 = 0;

-- batch_reopen_item --
-- A failed item is open again; a batch that had ended continues as its next generation.
UPDATE batch SET failed = failed - 1, open = open + 1, budget_failed = max(0, budget_failed - 1),
    stop_reason = CASE WHEN ended_at IS NULL THEN stop_reason END,
    error = CASE state WHEN 'cancelled' THEN :cancelled ELSE error END,
    state = CASE WHEN ended_at IS NULL THEN state ELSE 'sealed' END,
    generation = generation + (ended_at IS NOT NULL), ended_at = NULL
WHERE key = :batch AND state <> 'cancelling';

-- batch_reopen_layer --
-- A message of the batch's layers is active again, so that its walk continues.
UPDATE batch SET working = working + 1, stop_reason = CASE WHEN ended_at IS NULL THEN stop_reason END,
    error = CASE WHEN state = 'cancelled' OR error = :cancelled THEN :cancelled END,
    state = CASE WHEN state = 'cancelling' THEN state WHEN started_at IS NULL THEN 'pending' ELSE 'open' END,
    entered = started_at IS NOT NULL,
    generation = generation + (ended_at IS NOT NULL), ended_at = NULL
WHERE key = :batch AND state <> 'cancelling'
    AND NOT EXISTS (SELECT 1 FROM lane WHERE batch = :batch AND held = 1 AND closed & 4);

-- batch_complete_again --
-- The completion of an ended child of this run, if it is not under way.
UPDATE batch SET generation = generation + 1
WHERE id = :id AND parent = :parent AND ended_at IS NOT NULL AND working = 0 AND complete IS NOT NULL
RETURNING key;

-- batch_completed --
-- The completion has ended; the error is NULL if it has run.
UPDATE batch SET completion_error = :error WHERE key = :batch AND completion_error IS NOT :error;

-- batch_notify --
-- The number of another notification of a batch; no row unless it has ended.
UPDATE batch SET notifications = notifications + 1, notification = :notification
WHERE key = :batch AND ended_at IS NOT NULL
RETURNING notifications;

-- batch_notified --
-- Only the latest notification counts.
UPDATE batch SET notification = :notification WHERE id = :batch AND id || '.n' || notifications = :message;

-- batch_drop_notification --
-- The number of the notification that does not count any more.
UPDATE batch SET notification = NULL, notifications = notifications + 1
WHERE key = :batch AND notification IS NOT NULL
RETURNING notifications - 1;

-- batch_exists --
SELECT 1 FROM batch WHERE key = :batch;

-- batch_generation --
SELECT generation FROM batch WHERE key = :batch;

-- batches_cancelling --
SELECT json_group_array(key) FROM batch WHERE state = 'cancelling';

-- batch_read --
SELECT json_group_array(json_array(
    id, name, state, pages, chunks, total, working, worked_ms, params, force, label, headers, paused, canary,
    held_by & 8, flow_key,
    error, completion_error, json(errors), notify_url, notification, created_at, started_at, ended_at, named, retry_of,
    replaced_succeeded, replaced_failed, replaced_cancelled, recovered, priority, failure_budget, stop_reason, eligible,
    open, succeeded, failed, cancelled, already_processed, in_flight, duplicates, left_out, retrying, parked))
FROM (
    SELECT b.*, w.name, l.flow AS flow_key, (
        SELECT json_group_array(json_array(e.type, e.place, e.attempts, e.items, e.message, i.id, e.number, e.at))
        FROM failure e LEFT JOIN item i ON i.batch = e.batch AND i.number = e.number WHERE e.batch = b.key) AS errors
    FROM batch b JOIN workflow w ON w.key = b.workflow LEFT JOIN lane l ON l.key = b.lane WHERE b.id = :id);

-- batch_list --
SELECT json_group_array(json_array(
    id, name, state, pages, chunks, total, working, worked_ms, CASE WHEN :params THEN params ELSE 'null' END,
    force, label, CASE WHEN :params THEN headers END, paused, canary,
    held_by & 8, flow_key,
    error, completion_error, json(errors), notify_url, notification, created_at, started_at, ended_at, named, retry_of,
    replaced_succeeded, replaced_failed, replaced_cancelled, recovered, priority, failure_budget, stop_reason, eligible,
    open, succeeded, failed, cancelled, already_processed, in_flight, duplicates, left_out, retrying, parked))
FROM (
    SELECT b.*, w.name, l.flow AS flow_key, (
        SELECT json_group_array(json_array(e.type, e.place, e.attempts, e.items, e.message, i.id, e.number, e.at))
        FROM failure e LEFT JOIN item i ON i.batch = e.batch AND i.number = e.number WHERE e.batch = b.key) AS errors
    FROM batch b JOIN workflow w ON w.key = b.workflow LEFT JOIN lane l ON l.key = b.lane
    WHERE b.key < :before AND (:workflow IS NULL OR w.name = :workflow) AND (:label IS NULL OR b.label = :label) AND (NOT :open_only OR b.ended_at IS NULL)
    ORDER BY b.key DESC LIMIT :limit);

-- batch_retries --
SELECT json_group_array(json_array(
    id, name, state, pages, chunks, total, working, worked_ms, 'null', force, label, (NULL), paused, canary,
    held_by & 8, flow_key,
    error, completion_error, json(errors), notify_url, notification, created_at, started_at, ended_at, named, retry_of,
    replaced_succeeded, replaced_failed, replaced_cancelled, recovered, priority, failure_budget, stop_reason, eligible,
    open, succeeded, failed, cancelled, already_processed, in_flight, duplicates, left_out, retrying, parked))
FROM (
    SELECT b.*, w.name, l.flow AS flow_key, (
        SELECT json_group_array(json_array(e.type, e.place, e.attempts, e.items, e.message, i.id, e.number, e.at))
        FROM failure e LEFT JOIN item i ON i.batch = e.batch AND i.number = e.number WHERE e.batch = b.key) AS errors
    FROM batch b JOIN workflow w ON w.key = b.workflow LEFT JOIN lane l ON l.key = b.lane
    WHERE b.retry_of = :batch ORDER BY b.key);

-- retry_earlier --
-- The state of the latest run of each of these items, in the batch that is retried or in one of its retries.
WITH given (slot, origin, id, number) AS (VALUES :rows)
SELECT json_group_array(json_array(g.slot, coalesce(a.state, i.state))) FROM given g
    LEFT JOIN retried_item r ON r.origin = g.origin AND r.item = g.id
    LEFT JOIN item a ON a.batch = r.batch AND a.number = r.number
    LEFT JOIN item i ON i.batch = g.origin AND i.number = g.number
WHERE coalesce(a.state, i.state) IS NOT NULL;

-- retry_note --
-- These items run in a retry from now on; replaced: the state of their earlier run.
WITH given (origin, item, batch, number, replaced) AS (VALUES :rows)
INSERT INTO retried_item (origin, item, batch, number, replaced)
SELECT origin, item, batch, number, replaced FROM given WHERE item IS NOT NULL
ON CONFLICT (origin, item) DO UPDATE SET batch = excluded.batch, number = excluded.number, replaced = excluded.replaced;

-- retry_count --
UPDATE batch SET replaced_succeeded = replaced_succeeded + :succeeded, replaced_failed = replaced_failed + :failed,
    replaced_cancelled = replaced_cancelled + :cancelled
WHERE key = :batch;

-- retry_recover --
-- Of these items of a retry, which have succeeded, those that had not before.
WITH given (number) AS (VALUES :rows)
UPDATE batch SET recovered = recovered + (
    SELECT count(*) FROM given g CROSS JOIN item i ON i.batch = :batch AND i.number = g.number
        CROSS JOIN retried_item r ON r.origin = :origin AND r.item = i.id AND r.batch = i.batch AND r.number = i.number
    WHERE r.replaced IN ('failed', 'cancelled'))
WHERE key = :batch;

-- retry_has_taken --
-- A row if a retry of the batch has started this item again.
SELECT 1 FROM item i JOIN retried_item r ON r.origin = :origin AND r.item = i.id
    JOIN item a ON a.batch = r.batch AND a.number = r.number
WHERE i.batch = :batch AND i.number = :number AND (r.batch <> i.batch OR r.number <> i.number);

-- retry_items --
WITH given (id) AS (VALUES :rows)
SELECT json_group_array(json_array(b.id, i.number, i.id, i.state, i.result, i.error, i.ended_at,
    i.attempts + (i.state = 'succeeded')))
FROM given g CROSS JOIN retried_item r ON r.origin = :origin AND r.item = g.id
    CROSS JOIN item i ON i.batch = r.batch AND i.number = r.number JOIN batch b ON b.key = r.batch;

-- retry_known --
-- Those of these ids that the batch, the one that it retries, or another retry of that one has started.
WITH given (id) AS (VALUES :rows)
SELECT json_group_array(g.id) FROM given g
WHERE EXISTS (SELECT 1 FROM item i WHERE i.batch IN (:batch, :origin) AND i.id = g.id)
    OR EXISTS (SELECT 1 FROM retried_item r WHERE r.origin = :origin AND r.item = g.id);

-- items_with_ids --
WITH given (id) AS (VALUES :rows)
SELECT json_group_array(json_array(i.number, i.id, i.state, (NULL), i.error, i.ended_at,
    i.attempts + (i.state = 'succeeded')))
FROM given g CROSS JOIN item i ON i.batch = :batch AND i.id = g.id;

-- item_classify --
-- The given items that must not start: 1 the batch has it already, 2 another batch has it in flight, 3 it is processed.
-- once: 2 if reasons 2 and 3 both count, 1 if only reason 2 counts, 0 if neither does.
WITH given (slot, batch, number, id, ledger, once) AS (VALUES :rows)
SELECT json_group_array(json_array(g.slot,
    CASE WHEN i.id IS NOT NULL OR n.id IS NOT NULL THEN 1
        WHEN k.holder IS NOT NULL AND k.holder <> g.batch THEN 2 ELSE 3 END))
FROM given g
    LEFT JOIN item i ON i.batch = g.batch AND i.id = g.id
    LEFT JOIN item n ON n.batch = g.batch AND n.number = g.number
    LEFT JOIN mark k ON k.ledger = g.ledger AND k.item = g.id
WHERE g.id IS NOT NULL AND (i.id IS NOT NULL OR n.id IS NOT NULL
    OR g.once > 0 AND k.holder IS NOT NULL AND k.holder <> g.batch
    OR g.once = 2 AND k.processed_at IS NOT NULL AND (k.expires_at IS NULL OR k.expires_at > :now));

-- item_add --
WITH given (batch, number, id) AS (VALUES :rows)
INSERT INTO item (batch, number, id, state) SELECT batch, number, id, 'open' FROM given WHERE id IS NOT NULL;

-- item_add_data --
-- The data that fetch returned for items that were just added.
WITH given (batch, number, data) AS (VALUES :rows)
UPDATE item SET data = g.data FROM given g WHERE item.batch = g.batch AND item.number = g.number;

-- item_mark_in_flight --
WITH given (ledger, item, holder) AS (VALUES :rows)
INSERT INTO mark (ledger, item, holder) SELECT ledger, item, holder FROM given WHERE item IS NOT NULL
ON CONFLICT (ledger, item) DO UPDATE SET holder = excluded.holder;

-- item_message --
WITH given (id, lane, batch, number) AS (VALUES :rows)
INSERT INTO message (id, lane, due, batch, number, created_at)
SELECT id, lane, 0, batch, number, :now FROM given WHERE id IS NOT NULL;

-- item_end --
WITH given (batch, number, state, result, error) AS (VALUES :rows)
UPDATE item SET state = g.state, result = g.result, error = g.error, ended_at = :now,
    data = CASE WHEN g.state = 'failed' THEN data END
FROM given g WHERE item.batch = g.batch AND item.number = g.number;

-- item_fail --
-- Failed or lost attempts; a lost one has no error.
WITH given (batch, number, attempts, error) AS (VALUES :rows)
UPDATE item SET attempts = item.attempts + g.attempts, error = coalesce(g.error, item.error)
FROM given g WHERE item.batch = g.batch AND item.number = g.number;

-- failure_groups --
SELECT json_group_array(json_array(type, place)) FROM failure WHERE batch = :batch;

-- failure_add --
WITH given (batch, type, place, attempts, items, message, number) AS (VALUES :rows)
INSERT INTO failure (batch, type, place, attempts, items, message, number, at)
SELECT batch, type, place, attempts, items, message, number, :now FROM given WHERE batch IS NOT NULL
ON CONFLICT (batch, type, place) DO UPDATE SET
    attempts = attempts + excluded.attempts, items = items + excluded.items, message = excluded.message,
    number = excluded.number, at = excluded.at;

-- failure_drop --
DELETE FROM failure WHERE batch = :batch;

-- item_reopen --
UPDATE item SET state = 'open', result = NULL, error = NULL, ended_at = NULL
WHERE batch = :batch AND number = :number;

-- item_read --
SELECT json_group_array(json_array(number, id, state, result, error, ended_at, attempts)) FROM (
    SELECT number, id, state, CASE WHEN :results THEN result END AS result, error, ended_at,
        attempts + (state = 'succeeded') AS attempts
    FROM item
    WHERE batch = :batch AND number > :after AND (:state IS NULL OR state = :state) ORDER BY number LIMIT :limit);

-- item_sizes --
-- The sizes of results and errors of the items that item_read would read.
SELECT json_group_array(size) FROM (
    SELECT coalesce(length(result), 0) + coalesce(length(error), 0) AS size FROM item
    WHERE batch = :batch AND number > :after AND (:state IS NULL OR state = :state) ORDER BY number LIMIT :limit);

-- item_find_in_batch --
SELECT json_group_array(json_array(
    i.number, i.id, i.state, i.result, i.error, i.ended_at, i.attempts + (i.state = 'succeeded')))
FROM item i WHERE i.batch = :batch AND i.id = :item;

-- item_find --
SELECT json_group_array(json_array(batch, number, id, state, result, error, ended_at, attempts)) FROM (
    SELECT b.id AS batch, i.number, i.id, i.state, i.result, i.error, i.ended_at,
        i.attempts + (i.state = 'succeeded') AS attempts
    FROM (
        SELECT c.key, c.id FROM workflow w CROSS JOIN batch c ON c.workflow = w.key
        WHERE w.name = :workflow ORDER BY c.key DESC LIMIT :batches) b
        CROSS JOIN item i ON i.batch = b.key AND i.id = :item
    ORDER BY b.key DESC LIMIT :limit);

-- mark_items --
WITH given (batch, number, ledger, expires_at) AS (VALUES :rows)
INSERT INTO mark (ledger, item, processed_at, expires_at)
SELECT g.ledger, i.id, :now, g.expires_at
FROM given g CROSS JOIN item i ON i.batch = g.batch AND i.number = g.number
WHERE true
ON CONFLICT (ledger, item) DO UPDATE SET
    processed_at = excluded.processed_at, expires_at = excluded.expires_at, holder = NULL;

-- mark_release --
-- Items that ended without success are no longer in flight.
-- Materialized, else the whole ledger is scanned for each item.
WITH given (batch, number, ledger) AS (VALUES :rows),
ended AS MATERIALIZED (
    SELECT g.ledger, g.batch, i.id FROM given g CROSS JOIN item i ON i.batch = g.batch AND i.number = g.number)
UPDATE mark SET holder = NULL
FROM ended WHERE mark.ledger = ended.ledger AND mark.item = ended.id AND mark.holder = ended.batch;

-- mark_drop_empty --
-- Rows that are neither marks nor in flight.
WITH given (batch, number, ledger) AS (VALUES :rows)
DELETE FROM mark WHERE processed_at IS NULL AND holder IS NULL AND ledger IN (SELECT ledger FROM given)
    AND item IN (SELECT i.id FROM given g CROSS JOIN item i ON i.batch = g.batch AND i.number = g.number);

-- mark_hold --
-- A redriven item is in flight again.
INSERT INTO mark (ledger, item, holder) SELECT :ledger, id, batch FROM item WHERE batch = :batch AND number = :number
ON CONFLICT (ledger, item) DO UPDATE SET holder = excluded.holder;

-- mark_read --
WITH given (item) AS (VALUES :rows)
SELECT json_group_array(m.item) FROM given g CROSS JOIN mark m ON m.ledger = :ledger AND m.item = g.item
WHERE m.processed_at IS NOT NULL AND (m.expires_at IS NULL OR m.expires_at > :now);

-- mark_put --
WITH given (item) AS (VALUES :rows)
INSERT INTO mark (ledger, item, processed_at, expires_at)
SELECT :ledger, item, :now, :expires_at FROM given WHERE item IS NOT NULL
ON CONFLICT (ledger, item) DO UPDATE SET processed_at = excluded.processed_at, expires_at = excluded.expires_at;

-- mark_list --
SELECT json_group_array(json_array(item, expires_at)) FROM (
    SELECT item, expires_at FROM mark
    WHERE ledger = :ledger AND item > :after
        AND processed_at IS NOT NULL AND (expires_at IS NULL OR expires_at > :now)
    ORDER BY item LIMIT :limit);

-- ledger_list --
SELECT json_group_array(name) FROM (
    SELECT name FROM ledger l WHERE EXISTS (SELECT 1 FROM mark k WHERE k.ledger = l.key AND k.processed_at IS NOT NULL)
    ORDER BY name);

-- mark_forget --
WITH given (item) AS (VALUES :rows)
DELETE FROM mark
WHERE ledger = :ledger AND item IN (SELECT item FROM given) AND processed_at IS NOT NULL AND holder IS NULL;

-- mark_forget_held --
WITH given (item) AS (VALUES :rows)
UPDATE mark SET processed_at = NULL, expires_at = NULL
WHERE ledger = :ledger AND item IN (SELECT item FROM given) AND processed_at IS NOT NULL;

-- mark_forget_all --
DELETE FROM mark WHERE ledger = :ledger AND processed_at IS NOT NULL AND holder IS NULL;

-- mark_forget_all_held --
UPDATE mark SET processed_at = NULL, expires_at = NULL WHERE ledger = :ledger AND processed_at IS NOT NULL;

-- prune_marks --
-- By the primary key; the plus sign keeps SQLite from reading all expired rows for each slice.
WITH gone AS MATERIALIZED (
    SELECT ledger, item FROM mark WHERE expires_at <= :now AND holder IS NULL LIMIT :limit)
DELETE FROM mark WHERE ledger IN (SELECT ledger FROM gone) AND item IN (SELECT item FROM gone)
    AND +expires_at <= :now AND holder IS NULL;

-- prune_steps --
DELETE FROM step WHERE run IN (SELECT id FROM run WHERE ended_at < :before ORDER BY ended_at, id LIMIT :limit);

-- prune_runs --
DELETE FROM run WHERE id IN (SELECT id FROM run WHERE ended_at < :before ORDER BY ended_at, id LIMIT :limit);

-- prune_dead_steps --
DELETE FROM step WHERE run IN (
    SELECT id FROM message WHERE died_at < :before AND died_at IS NOT NULL ORDER BY died_at, id LIMIT :limit);

-- prune_dead_webhooks --
DELETE FROM webhook WHERE run IN (
    SELECT id FROM message WHERE died_at < :before AND died_at IS NOT NULL ORDER BY died_at, id LIMIT :limit);

-- prune_dead_letters --
DELETE FROM message WHERE id IN (
    SELECT id FROM message WHERE died_at < :before AND died_at IS NOT NULL ORDER BY died_at, id LIMIT :limit);

-- prune_batch_pick --
SELECT key FROM batch WHERE ended_at < :before AND working = 0 LIMIT 1;

-- prune_items --
DELETE FROM item WHERE batch = :batch AND number IN (SELECT number FROM item WHERE batch = :batch LIMIT :limit);

-- prune_retried --
DELETE FROM retried_item WHERE origin = :batch AND item IN (
    SELECT item FROM retried_item WHERE origin = :batch LIMIT :limit);

-- prune_batch --
DELETE FROM batch WHERE key = :batch AND NOT EXISTS (SELECT 1 FROM item WHERE batch = :batch)
    AND NOT EXISTS (SELECT 1 FROM retried_item WHERE origin = :batch);

-- schedule_add --
-- A new version of its own, so that nobody who has read an earlier schedule of this id fires it.
INSERT INTO schedule (id, destination, text, next_at, created_at, version)
VALUES (:id, :destination, :text, :next_at, :now, :now);

-- schedule_replace --
UPDATE schedule SET destination = :destination, text = :text, next_at = :next_at, version = version + 1 WHERE id = :id;

-- schedule_plan --
UPDATE schedule SET next_at = :next_at, version = version + 1 WHERE id = :id AND version = :version;

-- schedule_pause --
UPDATE schedule SET paused = 1, version = version + 1 WHERE id = :id AND paused = 0;

-- schedule_resume --
UPDATE schedule SET paused = 0, next_at = :next_at, version = version + 1 WHERE id = :id AND paused = 1;

-- schedule_drop --
DELETE FROM schedule WHERE id = :id;

-- schedule_fire --
WITH fire (at, outcome, started, error) AS (VALUES (:at, :outcome, :started, :error))
UPDATE schedule SET
    version = version + 1,
    next_at = :next_at,
    last_at = iif(f.outcome = 'fired', f.at, last_at),
    last_id = iif(f.outcome = 'fired', f.started, last_id),
    fires = fires + (f.outcome = 'fired'),
    skips = skips + (f.outcome = 'skipped'),
    skipped_at = iif(f.outcome = 'skipped', f.at, skipped_at),
    queued_at = iif(f.outcome = 'queued', f.at, iif(queued_at = f.at, NULL, queued_at)),
    error = iif(f.outcome = 'failed', f.error, iif(f.outcome = 'fired', NULL, schedule.error))
FROM fire f WHERE id = :id;

-- schedule_read --
SELECT json_group_array(json_array(text, version, paused, created_at, next_at, last_at, last_id, fires, skips, skipped_at, queued_at, error))
FROM schedule WHERE id = :id;

-- schedule_list --
SELECT json_group_array(json_array(text, version, paused, created_at, next_at, last_at, last_id, fires, skips, skipped_at, queued_at, error))
FROM (SELECT * FROM schedule WHERE id > :after ORDER BY id LIMIT :limit);

-- schedule_due --
-- Those that are due, by time, and those whose queued fire nothing under way holds back any more.
SELECT json_group_array(json_array(text, version, paused, created_at, next_at, last_at, last_id, fires, skips, skipped_at, queued_at, error))
FROM (
    SELECT s.* FROM (
        SELECT id, next_at AS at FROM schedule WHERE paused = 0 AND next_at <= :now
        UNION
        SELECT id, queued_at FROM schedule WHERE queued_at IS NOT NULL AND paused = 0
            AND NOT EXISTS (SELECT 1 FROM batch WHERE open_dedup = 'schedule:' || schedule.id AND ended_at IS NULL)
            AND NOT EXISTS (SELECT 1 FROM message WHERE open_dedup = 'schedule:' || schedule.id AND stage < 3)
    ) found CROSS JOIN schedule s ON s.id = found.id
    WHERE s.destination IN (SELECT value FROM json_each(:served))
    GROUP BY s.id ORDER BY min(found.at), s.id LIMIT :limit);

-- schedule_next --
SELECT min(next_at) FROM schedule
WHERE paused = 0 AND next_at IS NOT NULL AND destination IN (SELECT value FROM json_each(:served));

-- schedule_queued --
SELECT count(*) FROM schedule
WHERE queued_at IS NOT NULL AND paused = 0 AND destination IN (SELECT value FROM json_each(:served));

-- posts_known --
-- Those of these ids that are in the log.
WITH given (id) AS (VALUES :rows)
SELECT json_group_array(g.id) FROM given g WHERE EXISTS (SELECT 1 FROM post_log l WHERE l.message = g.id);

-- dedup_holders --
WITH given (key) AS (VALUES :rows)
SELECT json_group_array(json_array(d.key, d.message)) FROM given g CROSS JOIN post_dedup d ON d.key = g.key
WHERE d.until > :now;

-- dedup_put --
WITH given (key, message) AS (VALUES :rows)
INSERT INTO post_dedup (key, message, until) SELECT key, message, :until FROM given WHERE key IS NOT NULL
ON CONFLICT (key) DO UPDATE SET message = excluded.message, until = excluded.until;

-- log_add --
WITH given (message, tenant, state, at, detail) AS (VALUES :rows)
INSERT INTO post_log (message, tenant, state, at, detail)
SELECT message, tenant, state, at, detail FROM given WHERE message IS NOT NULL;

-- log_list --
SELECT json_group_array(json_array(key, message, tenant, state, at, detail)) FROM (
    SELECT * FROM post_log WHERE tenant = :tenant AND key < :before ORDER BY key DESC LIMIT :limit);

-- log_list_of_post --
SELECT json_group_array(json_array(key, message, tenant, state, at, detail)) FROM (
    SELECT * FROM post_log WHERE message = :message AND +tenant = :tenant AND key < :before
    ORDER BY key DESC LIMIT :limit);

-- log_created --
WITH given (id) AS (VALUES :rows)
SELECT json_group_array(json_array(l.message, l.tenant, l.state, l.at, l.detail))
FROM given g CROSS JOIN post_log l ON l.message = g.id WHERE l.state = 'CREATED' AND +l.tenant = :tenant;

-- log_latest --
WITH given (id) AS (VALUES :rows)
SELECT json_group_array(json_array(l.message, l.tenant, l.state, l.at, l.detail))
FROM given g CROSS JOIN post_log l ON l.key = (SELECT max(key) FROM post_log WHERE message = g.id)
WHERE +l.tenant = :tenant;

-- open_post_add --
WITH given (message) AS (VALUES :rows)
INSERT OR IGNORE INTO open_post (key, tenant, message)
SELECT l.key, l.tenant, l.message FROM given g CROSS JOIN post_log l ON l.message = g.message WHERE l.state = 'CREATED';

-- open_post_drop --
WITH given (message) AS (VALUES :rows)
DELETE FROM open_post WHERE message IN (SELECT message FROM given);

-- open_posts_of --
WITH given (id) AS (VALUES :rows)
SELECT json_group_array(json_array(o.message, o.tenant)) FROM given g CROSS JOIN open_post o ON o.message = g.id;

-- open_post_list --
SELECT json_group_array(json_array(key, message, tenant, state, at, detail)) FROM (
    SELECT l.* FROM open_post o CROSS JOIN post_log l ON l.key = o.key
    WHERE o.tenant = :tenant AND o.key > :after ORDER BY o.key LIMIT :limit);

-- post_progress --
-- The open posts of a tenant among these ids, and how far they are: 0 waits in a queue, 1 waits as a message, 2 a worker has
-- it, 3 the same and it was cancelled. One that has died has none of them.
WITH given (id) AS (VALUES :rows)
SELECT json_group_array(json_array(o.message,
    CASE WHEN q.seq IS NOT NULL THEN 0 WHEN m.owner IS NULL THEN 1 ELSE 2 + m.cancelled END))
FROM given g CROSS JOIN open_post o ON o.message = g.id
    LEFT JOIN queued_post q ON q.message = o.message LEFT JOIN message m ON m.id = o.message AND m.stage < 3
WHERE +o.tenant = :tenant AND (q.seq IS NOT NULL OR m.id IS NOT NULL);

-- messages_waiting --
WITH given (id) AS (VALUES :rows)
SELECT json_group_array(json_array(
    m.id, m.lane, m.batch, m.number, m.keep, m.parent, m.parent_step, m.linked, m.waits))
FROM given g CROSS JOIN message m ON m.id = g.id WHERE m.owner IS NULL AND m.stage < 3;

-- messages_cancel_leased --
WITH given (id) AS (VALUES :rows)
UPDATE message SET cancelled = 1 WHERE id IN (SELECT id FROM given) AND owner IS NOT NULL;

-- wire_run_find --
SELECT json_group_array(json_array(key, live, created_at, entries, size)) FROM (
    SELECT key, ended_at IS NULL AS live, created_at, entries, size FROM wire_run WHERE tenant = :tenant AND id = :id);

-- wire_run_add --
INSERT INTO wire_run (tenant, id, url, state, config, invoker, created_at, entries, size)
VALUES (:tenant, :id, :url, 'RUN_STARTED', :config, :invoker, :created_at, 0, 0);

-- wire_run_key --
SELECT key FROM wire_run WHERE tenant = :tenant AND id = :id;

-- wire_run_adopt --
UPDATE wire_run SET config = :config WHERE key = :run;

-- wire_run_grow --
WITH given (run, entries, size) AS (VALUES :rows)
UPDATE wire_run SET entries = g.entries, size = g.size FROM given g WHERE wire_run.key = g.run;

-- wire_run_end --
UPDATE wire_run SET state = :state, result = :result, ended_at = :now WHERE key = :run;

-- wire_run_read --
SELECT json_group_array(json_array(id, tenant, url, state, config, invoker, created_at, ended_at, result, size))
FROM wire_run WHERE tenant = :tenant AND id = :id;

-- wire_run_list --
SELECT json_group_array(json_array(id, tenant, url, state, config, invoker, created_at, ended_at, result, size)) FROM (
    SELECT * FROM wire_run WHERE tenant = :tenant AND (created_at, id) < (:created_at, :id)
    ORDER BY created_at DESC, id DESC LIMIT :limit);

-- wire_run_drop --
DELETE FROM wire_run WHERE key = :run;

-- wire_entry_add --
WITH given (run, seq, message, text, base64) AS (VALUES :rows)
INSERT INTO wire_entry (run, seq, message, text, base64, at)
SELECT run, seq, message, text, base64, :now FROM given WHERE run IS NOT NULL;

-- wire_entry_of_post --
SELECT 1 FROM wire_entry WHERE run = :run AND message = :message LIMIT 1;

-- wire_entry_list --
SELECT json_group_array(json_array(message, text, base64, at)) FROM (
    SELECT * FROM wire_entry WHERE run = :run AND seq <= :last ORDER BY seq);

-- wire_entry_drop --
DELETE FROM wire_entry WHERE run = :run;

-- wire_member_add --
WITH given (message, entry) AS (VALUES :rows)
INSERT INTO wire_member (run, message, entry, at) SELECT :run, message, entry, :now FROM given WHERE message IS NOT NULL;

-- wire_member_number --
WITH given (run, message, entry) AS (VALUES :rows)
UPDATE wire_member SET entry = g.entry FROM given g WHERE wire_member.run = g.run AND wire_member.message = g.message;

-- wire_member_entry --
SELECT entry FROM wire_member WHERE run = :run AND message = :message;

-- wire_member_first --
SELECT json_group_array(json_array(message, entry)) FROM (
    SELECT message, entry FROM wire_member WHERE run = :run ORDER BY key LIMIT 1);

-- wire_member_list --
SELECT json_group_array(json_array(message, entry, at)) FROM (
    SELECT m.* FROM wire_run r CROSS JOIN wire_member m ON m.run = r.key
    WHERE r.tenant = :tenant AND r.id = :id ORDER BY m.key);

-- wire_member_open --
SELECT json_group_array(m.message) FROM wire_member m CROSS JOIN open_post o ON o.message = m.message
WHERE m.run = :run;

-- wire_member_drop --
DELETE FROM wire_member WHERE run = :run;

-- wire_wait_add --
WITH given (message, event, head, due, about) AS (VALUES :rows)
INSERT INTO wire_wait (run, message, tenant, event, head, due, about)
SELECT :run, message, :tenant, event, head, due, about FROM given WHERE message IS NOT NULL;

-- wire_wait_list --
SELECT json_group_array(json_array(id, message, due, about, created_at)) FROM (
    SELECT r.id, w.message, w.due, w.about, r.created_at
    FROM wire_wait w CROSS JOIN wire_run r ON r.key = w.run
    WHERE w.tenant = :tenant AND w.event = :event ORDER BY w.key);

-- wire_wait_of_event --
SELECT json_group_array(json_array(run, entries, size, head, id, message, due, about, created_at)) FROM (
    SELECT w.run, r.entries, r.size, w.head, r.id, w.message, w.due, w.about, r.created_at
    FROM wire_wait w CROSS JOIN wire_run r ON r.key = w.run
    WHERE w.tenant = :tenant AND w.event = :event ORDER BY w.key);

-- wire_wait_of_run --
SELECT json_group_array(json_array(run, entries, size, head, id, message, due, about, created_at)) FROM (
    SELECT w.run, r.entries, r.size, w.head, r.id, w.message, w.due, w.about, r.created_at
    FROM wire_wait w CROSS JOIN wire_run r ON r.key = w.run
    WHERE w.run = :run AND w.event = :event ORDER BY w.key LIMIT 1);

-- wire_wait_head --
SELECT head FROM wire_wait WHERE message = :message;

-- wire_wait_drop --
WITH given (message) AS (VALUES :rows)
DELETE FROM wire_wait WHERE message IN (SELECT message FROM given);

-- wire_wait_drop_of_run --
DELETE FROM wire_wait WHERE run = :run;

-- wire_kept_add --
INSERT INTO wire_kept_event (run, event, tail)
SELECT :run, :event, :tail FROM (
    SELECT count(*) AS number, coalesce(sum(length(tail)), 0) AS size FROM wire_kept_event WHERE run = :run)
WHERE number < :most AND size + length(:tail) <= :most_size;

-- wire_kept_next --
SELECT json_group_array(json_array(key, tail)) FROM (
    SELECT key, tail FROM wire_kept_event WHERE run = :run AND event = :event AND key > :after ORDER BY key LIMIT 1);

-- wire_kept_take --
WITH given (key) AS (VALUES :rows)
DELETE FROM wire_kept_event WHERE key IN (SELECT key FROM given);

-- wire_kept_drop --
DELETE FROM wire_kept_event WHERE run = :run;

-- queue_key --
SELECT key FROM queue WHERE tenant = :tenant AND name = :name;

-- queue_make --
INSERT OR IGNORE INTO queue (tenant, name, parallelism, paused, created_at, updated_at)
VALUES (:tenant, :name, 1, 0, :now, :now);

-- queue_put --
INSERT INTO queue (tenant, name, parallelism, paused, created_at, updated_at)
VALUES (:tenant, :name, coalesce(:parallelism, 1), coalesce(:paused, 0), :now, :now)
ON CONFLICT (tenant, name) DO UPDATE SET
    parallelism = coalesce(:parallelism, parallelism), paused = coalesce(:paused, paused), updated_at = :now;

-- queue_drop --
DELETE FROM queue WHERE key = :queue;

-- queue_read --
SELECT json_group_array(json_array(name, parallelism, paused, created_at, updated_at, lag)) FROM (
    SELECT q.name, q.parallelism, q.paused, q.created_at, q.updated_at,
        (SELECT count(*) FROM queued_post w WHERE w.queue = q.key)
        + (SELECT count(*) FROM queue_place p WHERE p.queue = q.key) AS lag
    FROM queue q WHERE q.tenant = :tenant AND (:name IS NULL OR q.name = :name) ORDER BY q.name);

-- queue_free_places --
SELECT q.parallelism - (SELECT count(*) FROM queue_place p WHERE p.queue = q.key) FROM queue q
WHERE q.key = :queue AND q.paused = 0;

-- queue_place_add --
WITH given (message) AS (VALUES :rows)
INSERT INTO queue_place (message, queue) SELECT message, :queue FROM given WHERE message IS NOT NULL;

-- queue_place_pass --
WITH given (message, heir) AS (VALUES :rows)
UPDATE queue_place SET message = g.heir FROM given g WHERE queue_place.message = g.message;

-- queue_places_of --
WITH given (message) AS (VALUES :rows)
SELECT json_group_array(p.queue) FROM given g CROSS JOIN queue_place p ON p.message = g.message;

-- queue_place_drop --
WITH given (message) AS (VALUES :rows)
DELETE FROM queue_place WHERE message IN (SELECT message FROM given);

-- queued_post_add --
WITH given (message, row) AS (VALUES :rows)
INSERT INTO queued_post (queue, message, row) SELECT :queue, message, row FROM given WHERE message IS NOT NULL;

-- queued_post_next --
SELECT json_group_array(row) FROM (SELECT row FROM queued_post WHERE queue = :queue ORDER BY seq LIMIT :limit);

-- queued_post_read --
SELECT json_group_array(message) FROM (SELECT message FROM queued_post WHERE queue = :queue ORDER BY seq);

-- queued_post_drop --
WITH given (message) AS (VALUES :rows)
DELETE FROM queued_post WHERE message IN (SELECT message FROM given);

-- queued_post_drop_all --
DELETE FROM queued_post WHERE queue = :queue;

-- document_put --
INSERT INTO document (kind, name, text, version, created_at, updated_at) VALUES (:kind, :name, :text, 1, :now, :now)
ON CONFLICT (kind, name) DO UPDATE SET text = excluded.text, version = version + 1, updated_at = excluded.updated_at;

-- document_read --
SELECT json_group_array(json_array(name, text, version, created_at, updated_at))
FROM document WHERE kind = :kind AND name = :name;

-- document_list --
SELECT json_group_array(json_array(name, text, version, created_at, updated_at)) FROM (
    SELECT * FROM document
    WHERE kind = :kind AND name >= :prefix AND name < :prefix || char(1114111) AND name > :after
    ORDER BY name LIMIT :limit);

-- document_drop --
DELETE FROM document WHERE kind = :kind AND name = :name;

-- prune_log --
DELETE FROM post_log WHERE key IN (
    SELECT l.key FROM post_log l
    WHERE l.at < :before AND NOT EXISTS (SELECT 1 FROM open_post o WHERE o.message = l.message)
        AND (SELECT n.at FROM post_log n WHERE n.message = l.message ORDER BY n.key DESC LIMIT 1) < :before
    ORDER BY l.at LIMIT :limit);

-- prune_dedup --
DELETE FROM post_dedup WHERE key IN (SELECT key FROM post_dedup WHERE until <= :now ORDER BY until LIMIT :limit);

-- prune_wire_entries --
DELETE FROM wire_entry WHERE rowid IN (
    SELECT e.rowid FROM wire_run r CROSS JOIN wire_entry e ON e.run = r.key
    WHERE r.ended_at < :before ORDER BY r.ended_at LIMIT :limit);

-- prune_wire_members --
DELETE FROM wire_member WHERE key IN (
    SELECT m.key FROM wire_run r CROSS JOIN wire_member m ON m.run = r.key
    WHERE r.ended_at < :before ORDER BY r.ended_at LIMIT :limit);

-- prune_wire_runs --
DELETE FROM wire_run WHERE key IN (
    SELECT r.key FROM wire_run r
    WHERE r.ended_at < :before AND NOT EXISTS (SELECT 1 FROM wire_entry e WHERE e.run = r.key)
        AND NOT EXISTS (SELECT 1 FROM wire_member m WHERE m.run = r.key)
    ORDER BY r.ended_at LIMIT :limit);
