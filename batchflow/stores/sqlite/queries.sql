-- Every statement has one caller. `given` is the VALUES list that the rows of a call are bound to.
-- Reading statements return one JSON text.

-- worker_key --
SELECT key FROM worker WHERE name = :name;

-- worker_enlist --
INSERT INTO worker (name, lease_until, since, seen_at, concurrency) VALUES (:name, :until, :now, :now, :concurrency)
ON CONFLICT (name) DO UPDATE SET
    lease_until = excluded.lease_until, seen_at = excluded.seen_at, concurrency = excluded.concurrency;

-- worker_renew --
-- Only while the lease has not ended and nobody has taken the claims back.
UPDATE worker SET lease_until = :until, seen_at = :now WHERE name = :name;

-- worker_all --
SELECT json_group_array(json_array(key, name, lease_until)) FROM worker;

-- worker_status --
SELECT json_group_array(json_array(name, since, seen_at, lease_until, concurrency, json(holds)))
FROM (
    SELECT w.name, w.since, w.seen_at, w.lease_until, w.concurrency,
        (SELECT json_group_object(destination, held) FROM (
            SELECT l.destination, count(*) AS held FROM message m CROSS JOIN lane l ON l.key = m.lane
            WHERE m.owner = w.key GROUP BY l.destination)) AS holds
    FROM worker w
    ORDER BY w.name
);

-- worker_dismiss --
DELETE FROM worker WHERE key = :worker;

-- lane_key --
SELECT key FROM lane WHERE destination = :destination AND flow = :flow;

-- lane_make --
INSERT INTO lane (destination, flow) VALUES (:destination, :flow);

-- lane_ready_by --
UPDATE lane SET ready_at = min(coalesce(ready_at, :due), :due) WHERE key = :lane;

-- lane_recount --
UPDATE lane
SET ready_at = (SELECT m.due FROM message m WHERE m.lane = lane.key AND m.owner IS NULL ORDER BY m.due LIMIT 1)
WHERE key = :lane;

-- lanes_ready --
-- Flow keys in turn: the one that was served longest ago comes first. A next start further ahead than one interval
-- and a second is not believed (batchflow.core.flow.admit): the clock was set back.
SELECT json_group_array(json_array(
    lane, destination, flow, parallelism, rate, period, in_use, next_start, parked_until, paused))
FROM (
    SELECT l.key AS lane, l.destination, l.flow, f.in_use, f.next_start, f.parked_until, f.paused,
        CASE WHEN f.pinned THEN f.pin_parallelism ELSE f.parallelism END AS parallelism,
        CASE WHEN f.pinned THEN f.pin_rate ELSE f.rate END AS rate,
        CASE WHEN f.pinned THEN f.pin_period ELSE f.period END AS period
    FROM lane l JOIN flow f ON f.key = l.flow
    WHERE l.ready_at <= :now AND f.paused = 0 AND f.parked_until <= :now
        AND l.destination IN (SELECT value FROM json_each(:destinations))
        AND (f.in_use < CASE WHEN f.pinned THEN f.pin_parallelism ELSE f.parallelism END
            OR CASE WHEN f.pinned THEN f.pin_parallelism ELSE f.parallelism END IS NULL)
        AND (CASE WHEN f.pinned THEN f.pin_rate ELSE f.rate END IS NULL OR f.next_start <= :now
            OR f.next_start > :now + 1000 + CASE WHEN f.pinned THEN f.pin_period * 1.0 / f.pin_rate
                ELSE f.period * 1.0 / f.rate END)
    ORDER BY f.turn, l.ready_at
    LIMIT :limit
);

-- lanes_next --
-- When a waiting message of these destinations may start next, as far as time alone decides it.
SELECT min(max(
    l.ready_at, f.parked_until,
    CASE WHEN CASE WHEN f.pinned THEN f.pin_rate ELSE f.rate END IS NULL THEN 0 ELSE f.next_start END))
FROM lane l JOIN flow f ON f.key = l.flow
WHERE l.ready_at IS NOT NULL AND f.paused = 0
    AND l.destination IN (SELECT value FROM json_each(:destinations))
    AND (f.in_use < CASE WHEN f.pinned THEN f.pin_parallelism ELSE f.parallelism END
        OR CASE WHEN f.pinned THEN f.pin_parallelism ELSE f.parallelism END IS NULL);

-- flow_take --
UPDATE flow SET in_use = in_use + :count, next_start = :next_start, turn = (SELECT max(turn) + 1 FROM flow)
WHERE key = :flow;

-- flow_give_back --
UPDATE flow SET in_use = in_use - :count WHERE key = (SELECT flow FROM lane WHERE key = :lane);

-- flow_park --
UPDATE flow SET parked_until = max(parked_until, :until) WHERE key = (SELECT flow FROM lane WHERE key = :lane);

-- flow_declare --
INSERT INTO flow (key, parallelism, rate, period) VALUES (:key, :parallelism, :rate, :period)
ON CONFLICT (key) DO UPDATE SET
    parallelism = excluded.parallelism, rate = excluded.rate, period = excluded.period,
    next_start = CASE WHEN rate IS excluded.rate AND period IS excluded.period THEN next_start ELSE 0 END;

-- flow_pin --
INSERT INTO flow (key, pinned, pin_parallelism, pin_rate, pin_period, paused)
VALUES (:key, 1, :parallelism, :rate, :period, :paused)
ON CONFLICT (key) DO UPDATE SET
    pinned = 1, pin_parallelism = excluded.pin_parallelism, pin_rate = excluded.pin_rate,
    pin_period = excluded.pin_period, paused = excluded.paused, next_start = 0;

-- flow_unpin --
UPDATE flow SET pinned = 0, paused = 0, next_start = 0 WHERE key = :key;

-- flow_status --
SELECT json_group_array(json_array(key, parallelism, rate, period, pinned, paused, in_use, waiting, parked_until))
FROM (
    SELECT f.key, f.pinned, f.paused, f.in_use, f.parked_until,
        CASE WHEN f.pinned THEN f.pin_parallelism ELSE f.parallelism END AS parallelism,
        CASE WHEN f.pinned THEN f.pin_rate ELSE f.rate END AS rate,
        CASE WHEN f.pinned THEN f.pin_period ELSE f.period END AS period,
        (SELECT count(*) FROM lane l CROSS JOIN message m ON m.lane = l.key AND m.owner IS NULL WHERE l.flow = f.key)
            AS waiting
    FROM flow f
    WHERE :all OR f.key IN (SELECT value FROM json_each(:keys))
    ORDER BY f.key
);

-- messages_known --
-- Those of the given ids that a message, a kept run or a dead letter bears.
WITH given (id) AS (VALUES :rows)
SELECT json_group_array(g.id) FROM given g
WHERE EXISTS (SELECT 1 FROM message m WHERE m.id = g.id)
    OR EXISTS (SELECT 1 FROM run r WHERE r.id = g.id)
    OR EXISTS (SELECT 1 FROM dead_letter d WHERE d.id = g.id);

-- message_add --
WITH given (id, lane, due, batch, keep, body, headers, retry, label, parent, parent_step, depth) AS (VALUES :rows)
INSERT INTO message (id, lane, due, batch, keep, body, headers, retry, label, parent, parent_step, depth, created_at)
SELECT id, lane, due, batch, keep, body, headers, retry, label, parent, parent_step, depth, :now
FROM given WHERE id IS NOT NULL;

-- message_candidates --
SELECT json_group_array(json_array(
    id, fence, batch, number, item, failures, losses, body, headers, retry, started_at, depth))
FROM (
    SELECT m.id, m.fence, m.batch, m.number, i.id AS item, m.failures, m.losses, m.body, m.headers, m.retry,
        m.started_at, m.depth
    FROM message m LEFT JOIN item i ON i.batch = m.batch AND i.number = m.number
    WHERE m.lane = :lane AND m.owner IS NULL AND m.due <= :now
        AND (m.batch IS NULL OR m.batch NOT IN (SELECT key FROM batch WHERE state = 'cancelling'))
    ORDER BY m.due, m.id
    LIMIT :limit
);

-- message_take --
WITH given (id) AS (VALUES :rows)
UPDATE message SET owner = :owner, fence = fence + 1, started_at = coalesce(started_at, :now)
WHERE id IN (SELECT id FROM given);

-- message_held --
-- What is behind the given claims, as far as they are still held.
WITH given (slot, id, fence) AS (VALUES :rows)
SELECT json_group_array(json_array(
    g.slot, m.lane, m.batch, m.number, m.cancelled, m.keep, m.failures, m.losses, m.parent, m.parent_step, m.linked))
FROM given g CROSS JOIN message m ON m.id = g.id AND m.fence = g.fence
WHERE m.owner IS NOT NULL;

-- message_give_back --
WITH given (id, due, failures, losses, error) AS (VALUES :rows)
UPDATE message SET owner = NULL, due = g.due, failures = g.failures, losses = g.losses, error = g.error
FROM given g WHERE message.id = g.id;

-- message_drop --
WITH given (id) AS (VALUES :rows)
DELETE FROM message WHERE id IN (SELECT id FROM given);

-- message_reset_counts --
-- A recorded step starts the counting of failures and losses again, if its claim is held and not cancelled.
WITH given (id, fence) AS (VALUES :rows)
UPDATE message SET failures = 0, losses = 0
FROM given g WHERE message.id = g.id AND message.fence = g.fence
    AND owner IS NOT NULL AND cancelled = 0 AND (failures > 0 OR losses > 0);

-- message_reset_woken --
-- The same for what a claim records itself: timers that are due, and what has arrived.
WITH given (id) AS (VALUES :rows)
UPDATE message SET failures = 0, losses = 0
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

-- message_bury --
WITH given (id, error, failures) AS (VALUES :rows)
INSERT INTO dead_letter (
    id, destination, batch, number, item, payload, error, failures, created_at, died_at, journal, label, started_at,
    parent)
SELECT m.id, l.destination, m.batch, m.number, i.id, m.body, g.error, g.failures, m.created_at, :now,
    (SELECT json_group_array(json_array(number, name, kind, state, position, value, error, failures, due, at))
        FROM step s WHERE s.run = m.id),
    m.label, m.started_at, m.parent
FROM given g CROSS JOIN message m ON m.id = g.id
    JOIN lane l ON l.key = m.lane
    LEFT JOIN item i ON i.batch = m.batch AND i.number = m.number
WHERE true
ON CONFLICT (id) DO NOTHING;

-- message_of_worker --
SELECT json_group_array(json_array(
    id, fence, lane, batch, number, cancelled, keep, failures, losses, parent, parent_step, linked))
FROM message WHERE owner = :worker;

-- message_of_claims --
WITH given (id, fence) AS (VALUES :rows)
SELECT json_group_array(json_array(
    m.id, m.fence, m.lane, m.batch, m.number, m.cancelled, m.keep, m.failures, m.losses, m.parent, m.parent_step,
    m.linked))
FROM given g CROSS JOIN message m ON m.id = g.id AND m.fence = g.fence
WHERE m.owner = :worker;

-- message_cancel --
UPDATE message SET cancelled = 1 WHERE id = :id AND owner IS NOT NULL;

-- message_waiting --
SELECT json_group_array(json_array(id, lane, batch, number, keep, parent, parent_step, linked))
FROM message WHERE id = :id AND owner IS NULL;

-- message_waiting_of_batch --
-- The ids of a batch's messages all begin with the batch's id.
SELECT json_group_array(json_array(id, lane, batch, number, keep, parent, parent_step, linked)) FROM (
    SELECT id, lane, batch, number, keep, parent, parent_step, linked FROM message
    WHERE id > :low AND id < :high AND owner IS NULL AND batch = :batch LIMIT :limit);

-- message_waiting_of_parents --
WITH given (parent) AS (VALUES :rows)
SELECT json_group_array(json_array(m.id, m.lane, m.batch, m.number, m.keep, m.parent, m.parent_step, m.linked))
FROM given g CROSS JOIN message m ON m.parent = g.parent WHERE m.owner IS NULL;

-- message_cancel_leased_of_parents --
WITH given (parent) AS (VALUES :rows)
UPDATE message SET cancelled = 1 WHERE owner IS NOT NULL AND parent IN (SELECT parent FROM given);

-- batches_of_parents --
WITH given (parent) AS (VALUES :rows)
SELECT json_group_array(b.key) FROM given g CROSS JOIN batch b ON b.parent = g.parent WHERE b.ended_at IS NULL;

-- message_open_of_function --
-- Runs that have not ended; those that are to end already are left out.
SELECT json_group_array(id) FROM (
    SELECT m.id FROM lane l CROSS JOIN message m ON m.lane = l.key AND m.keep = 1
    WHERE l.destination = :destination AND m.cancelled = 0 AND (:label IS NULL OR m.label = :label) LIMIT :limit);

-- message_open_of_label --
SELECT json_group_array(id) FROM (
    SELECT id FROM message WHERE label = :label AND label IS NOT NULL AND cancelled = 0 LIMIT :limit);

-- message_link --
-- Its end has more to clear away.
WITH given (id) AS (VALUES :rows)
UPDATE message SET linked = 1 WHERE id IN (SELECT id FROM given) AND linked = 0;

-- message_cancel_leased_of_batch --
UPDATE message SET cancelled = 1 WHERE owner IS NOT NULL AND batch = :batch;

-- step_put --
-- Only for claims that are held and not cancelled.
WITH given (run, fence, number, name, kind, state, position, value, error, failures, due, at) AS (VALUES :rows)
INSERT INTO step (run, number, name, kind, state, position, value, error, failures, due, at)
SELECT g.run, g.number, g.name, g.kind, g.state, g.position, g.value, g.error, g.failures, g.due, g.at
FROM given g CROSS JOIN message m ON m.id = g.run AND m.fence = g.fence
WHERE m.owner IS NOT NULL AND m.cancelled = 0
ON CONFLICT (run, number) DO UPDATE SET
    state = excluded.state, position = excluded.position, value = excluded.value, error = excluded.error,
    failures = excluded.failures, due = excluded.due, at = excluded.at;

-- step_ripen --
-- Timers that are due and what has arrived, at the claim that takes their run up again.
WITH given (run, number, name, kind, state, position, value, error, failures, due, at) AS (VALUES :rows)
UPDATE step SET state = g.state, position = g.position, value = g.value, error = g.error, at = g.at
FROM given g WHERE step.run = g.run AND step.number = g.number;

-- step_refused --
-- Of the given claims those that may not write, and whether it is because they are cancelled.
WITH given (slot, id, fence) AS (VALUES :rows)
SELECT json_group_array(json_array(g.slot, coalesce(m.cancelled, 0)))
FROM given g LEFT JOIN message m ON m.id = g.id AND m.fence = g.fence AND m.owner IS NOT NULL
WHERE g.id IS NOT NULL AND (m.id IS NULL OR m.cancelled = 1);

-- step_written --
-- Of the given steps those that stand there just so already.
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

-- arrival_of_runs --
WITH given (run) AS (VALUES :rows)
SELECT json_group_array(json_array(run, number, state, value, error, at)) FROM (
    SELECT a.* FROM given g CROSS JOIN arrival a ON a.run = g.run ORDER BY a.key);

-- arrival_add --
-- Only where the run has not ended and its step still waits.
WITH given (run, number, state, value, error) AS (VALUES :rows)
INSERT INTO arrival (run, number, state, value, error, at)
SELECT g.run, g.number, g.state, g.value, g.error, :now
FROM given g CROSS JOIN message m ON m.id = g.run
    CROSS JOIN step s ON s.run = g.run AND s.number = g.number AND s.state = 'pending';

-- arrival_runs --
-- Of the given runs those for which something has arrived.
WITH given (run) AS (VALUES :rows)
SELECT json_group_array(run) FROM given WHERE run IN (SELECT run FROM arrival);

-- arrival_drop --
WITH given (run) AS (VALUES :rows)
DELETE FROM arrival WHERE run IN (SELECT run FROM given);

-- message_asleep --
-- Of the given runs those that are suspended and for which something came in indeed, with their lane; one that waits for
-- its next attempt goes on waiting.
WITH given (run) AS (VALUES :rows)
SELECT json_group_array(json_array(m.id, m.lane)) FROM message m
WHERE m.id IN (SELECT run FROM given) AND m.owner IS NULL AND m.error IS NULL AND m.due > :now
    AND EXISTS (SELECT 1 FROM arrival a WHERE a.run = m.id);

-- message_awake --
WITH given (run) AS (VALUES :rows)
UPDATE message SET due = :now WHERE id IN (SELECT run FROM given);

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
-- One event for one wait, where several branches of the run wait for the same.
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
WHERE id = :run AND cancelled = 0 AND (SELECT count(*) FROM kept_event WHERE run = :run) < :most;

-- kept_event_oldest --
SELECT json_array(key, data) FROM kept_event WHERE run = :run AND event = :event ORDER BY key LIMIT 1;

-- kept_event_take --
DELETE FROM kept_event WHERE key = :key;

-- kept_event_drop --
WITH given (run) AS (VALUES :rows)
DELETE FROM kept_event WHERE run IN (SELECT run FROM given);

-- webhook_add --
INSERT INTO webhook (token, run) VALUES (:token, :run) ON CONFLICT (token) DO NOTHING;

-- webhook_run --
SELECT run FROM webhook WHERE token = :token;

-- webhook_drop --
WITH given (run) AS (VALUES :rows)
DELETE FROM webhook WHERE run IN (SELECT run FROM given);

-- run_read --
-- The message, kept run or dead letter of this id.
SELECT json_group_array(json_array(
    id, destination, state, created_at, started_at, ended_at, payload, result, error, failures, batch, label, parent))
FROM (
    SELECT m.id, l.destination, CASE WHEN m.owner IS NULL THEN 'waiting' ELSE 'running' END AS state, m.created_at,
        m.started_at, NULL AS ended_at, m.body AS payload, NULL AS result, m.error, m.failures, b.id AS batch,
        m.label, m.parent
    FROM message m JOIN lane l ON l.key = m.lane LEFT JOIN batch b ON b.key = m.batch WHERE m.id = :id
    UNION ALL
    SELECT r.id, r.destination, r.state, r.created_at, r.started_at, r.ended_at, r.payload, r.result, r.error,
        r.failures, b.id, r.label, r.parent
    FROM run r LEFT JOIN batch b ON b.key = r.batch WHERE r.id = :id
    UNION ALL
    SELECT d.id, d.destination, 'failed', d.created_at, d.started_at, d.died_at, d.payload, NULL, d.error, d.failures,
        b.id, d.label, d.parent
    FROM dead_letter d LEFT JOIN batch b ON b.key = d.batch WHERE d.id = :id
    LIMIT 1);

-- run_list --
-- Each of the three is read from its own index of (created_at, id), newest first, and no further than the limit.
SELECT json_group_array(json_array(
    id, destination, state, created_at, started_at, ended_at, payload, result, error, failures, batch, label, parent))
FROM (
    SELECT * FROM (
        SELECT m.id, l.destination, CASE WHEN m.owner IS NULL THEN 'waiting' ELSE 'running' END AS state, m.created_at,
            m.started_at, NULL AS ended_at, m.body AS payload, NULL AS result, m.error, m.failures, b.id AS batch,
            m.label, m.parent
        FROM message m JOIN lane l ON l.key = m.lane LEFT JOIN batch b ON b.key = m.batch
        WHERE m.keep = 1 AND (m.created_at, m.id) < (:before_at, :before_id)
            AND (:state IS NULL OR CASE WHEN m.owner IS NULL THEN 'waiting' ELSE 'running' END = :state)
            AND (:destination IS NULL OR l.destination = :destination) AND (:label IS NULL OR m.label = :label)
        ORDER BY m.created_at DESC, m.id DESC LIMIT :limit)
    UNION ALL
    SELECT * FROM (
        SELECT r.id, r.destination, r.state, r.created_at, r.started_at, r.ended_at, r.payload, r.result, r.error,
            r.failures, b.id, r.label, r.parent
        FROM run r LEFT JOIN batch b ON b.key = r.batch
        WHERE (r.created_at, r.id) < (:before_at, :before_id) AND (:state IS NULL OR r.state = :state)
            AND (:destination IS NULL OR r.destination = :destination) AND (:label IS NULL OR r.label = :label)
        ORDER BY r.created_at DESC, r.id DESC LIMIT :limit)
    UNION ALL
    SELECT * FROM (
        SELECT d.id, d.destination, 'failed', d.created_at, d.started_at, d.died_at, d.payload, NULL, d.error,
            d.failures, b.id, d.label, d.parent
        FROM dead_letter d LEFT JOIN batch b ON b.key = d.batch
        WHERE (d.created_at, d.id) < (:before_at, :before_id) AND (:state IS NULL OR :state = 'failed')
            AND (:destination IS NULL OR d.destination = :destination) AND (:label IS NULL OR d.label = :label)
        ORDER BY d.created_at DESC, d.id DESC LIMIT :limit)
    ORDER BY 4 DESC, 1 DESC LIMIT :limit);

-- dead_letter_journal --
SELECT journal FROM dead_letter WHERE id = :id;

-- dead_letter_list --
SELECT json_group_array(json_array(id, destination, payload, batch, item, error, failures, died_at, journal)) FROM (
    SELECT d.id, d.destination, d.payload, b.id AS batch, d.item, d.error, d.failures, d.died_at, d.journal
    FROM dead_letter d LEFT JOIN batch b ON b.key = d.batch
    WHERE :batch IS NULL OR b.id = :batch ORDER BY d.died_at DESC, d.id DESC LIMIT :limit);

-- workflow_key --
SELECT key FROM workflow WHERE name = :name;

-- workflow_make --
INSERT INTO workflow (name) VALUES (:name);

-- batch_key --
SELECT key FROM batch WHERE id = :id;

-- batch_head --
SELECT json_array(
    key, id, workflow, lane, params, complete, complete_flow, ledger_ttl, keep_results, parent, parent_step, depth)
FROM batch WHERE key = :batch;

-- batch_open --
INSERT INTO batch (
    id, workflow, state, lane, params, complete, complete_flow, ledger_ttl, keep_results, force, label, parent,
    parent_step, depth, created_at)
VALUES (
    :id, :workflow, 'pending', :lane, :params, :complete, :complete_flow, :ledger_ttl, :keep_results, :force, :label,
    :parent, :parent_step, :depth, :now);

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
UPDATE batch SET open = open + :open, duplicates = duplicates + :duplicates, in_flight = in_flight + :in_flight
WHERE key = :batch;

-- batch_move --
UPDATE batch SET working = working + :working, open = open + :open, succeeded = succeeded + :succeeded,
    failed = failed + :failed, cancelled = cancelled + :cancelled, worked_ms = worked_ms + :worked_ms
WHERE key = :batch;

-- batch_break --
-- The walk over the pages broke off; what has started goes on.
UPDATE batch SET error = coalesce(error, :error), entered = 1
WHERE key = :batch AND ended_at IS NULL AND state <> 'cancelling';

-- batch_advance --
-- Sealed when its pages are all walked, ended when no item is open either; the row comes back only when it ended.
UPDATE batch SET
    ended_at = CASE WHEN open = 0 THEN :now END,
    state = CASE WHEN open > 0 THEN CASE state WHEN 'cancelling' THEN state ELSE 'sealed' END
        WHEN state = 'cancelling' THEN 'cancelled' WHEN error IS NOT NULL THEN 'failed' ELSE 'completed' END
WHERE key = :batch AND ended_at IS NULL AND working = 0 AND (entered = 1 OR state = 'cancelling')
    AND (open = 0 OR state = 'open')
RETURNING ended_at IS NOT NULL;

-- batch_cancel --
UPDATE batch SET state = 'cancelling' WHERE key = :batch AND ended_at IS NULL;

-- batches_cancelling --
SELECT json_group_array(key) FROM batch WHERE state = 'cancelling';

-- batch_read --
SELECT json_group_array(json_array(
    id, name, state, pages, chunks, total, working, worked_ms, params, force, label, error, created_at,
    started_at, ended_at, eligible, open, succeeded, failed, cancelled, already_processed, in_flight, duplicates,
    left_out))
FROM (
    SELECT b.*, w.name FROM batch b JOIN workflow w ON w.key = b.workflow WHERE b.id = :id);

-- batch_list --
SELECT json_group_array(json_array(
    id, name, state, pages, chunks, total, working, worked_ms, params, force, label, error, created_at,
    started_at, ended_at, eligible, open, succeeded, failed, cancelled, already_processed, in_flight, duplicates,
    left_out))
FROM (
    SELECT b.*, w.name FROM batch b JOIN workflow w ON w.key = b.workflow
    WHERE (:workflow IS NULL OR w.name = :workflow) AND (NOT :open_only OR b.ended_at IS NULL)
    ORDER BY b.key DESC LIMIT :limit);

-- item_classify --
-- Of the given items those that are not to start: 1 the batch has it already, 2 another batch has it in flight.
WITH given (slot, batch, number, id, workflow) AS (VALUES :rows)
SELECT json_group_array(json_array(g.slot, CASE WHEN i.id IS NOT NULL OR n.id IS NOT NULL THEN 1 ELSE 2 END))
FROM given g
    LEFT JOIN item i ON i.batch = g.batch AND i.id = g.id
    LEFT JOIN item n ON n.batch = g.batch AND n.number = g.number
    LEFT JOIN ledger l ON l.workflow = g.workflow AND l.item = g.id
WHERE g.id IS NOT NULL AND (i.id IS NOT NULL OR n.id IS NOT NULL OR l.holder IS NOT NULL AND l.holder <> g.batch);

-- item_add --
WITH given (batch, number, id) AS (VALUES :rows)
INSERT INTO item (batch, number, id, state) SELECT batch, number, id, 'open' FROM given WHERE id IS NOT NULL;

-- item_hold --
WITH given (workflow, item, holder) AS (VALUES :rows)
INSERT INTO ledger (workflow, item, holder) SELECT workflow, item, holder FROM given WHERE item IS NOT NULL
ON CONFLICT (workflow, item) DO UPDATE SET holder = excluded.holder;

-- item_message --
WITH given (id, lane, batch, number) AS (VALUES :rows)
INSERT INTO message (id, lane, due, batch, number, created_at)
SELECT id, lane, :now, batch, number, :now FROM given WHERE id IS NOT NULL;

-- item_end --
WITH given (batch, number, state, result, error) AS (VALUES :rows)
UPDATE item SET state = g.state, result = g.result, error = g.error, ended_at = :now
FROM given g WHERE item.batch = g.batch AND item.number = g.number;

-- item_read --
SELECT json_group_array(json_array(number, id, state, result, error, ended_at)) FROM (
    SELECT * FROM item
    WHERE batch = :batch AND number > :after AND (:state IS NULL OR state = :state) ORDER BY number LIMIT :limit);

-- ledger_mark_items --
WITH given (batch, number, workflow, expires_at) AS (VALUES :rows)
INSERT INTO ledger (workflow, item, processed_at, expires_at)
SELECT g.workflow, i.id, :now, g.expires_at
FROM given g CROSS JOIN item i ON i.batch = g.batch AND i.number = g.number
WHERE true
ON CONFLICT (workflow, item) DO UPDATE SET
    processed_at = excluded.processed_at, expires_at = excluded.expires_at, holder = NULL;

-- ledger_let_go --
-- Items that ended without success are in flight no more.
-- Materialized, or the whole ledger of the workflow is walked through for each item.
WITH given (batch, number, workflow) AS (VALUES :rows),
ended AS MATERIALIZED (
    SELECT g.workflow, g.batch, i.id FROM given g CROSS JOIN item i ON i.batch = g.batch AND i.number = g.number)
UPDATE ledger SET holder = NULL
FROM ended WHERE ledger.workflow = ended.workflow AND ledger.item = ended.id AND ledger.holder = ended.batch;

-- ledger_sweep_items --
-- Rows that say nothing any more.
WITH given (batch, number, workflow) AS (VALUES :rows)
DELETE FROM ledger WHERE processed_at IS NULL AND holder IS NULL AND workflow IN (SELECT workflow FROM given)
    AND item IN (SELECT i.id FROM given g CROSS JOIN item i ON i.batch = g.batch AND i.number = g.number);

-- ledger_processed --
SELECT json_group_array(item) FROM ledger
WHERE workflow = (SELECT key FROM workflow WHERE name = :workflow)
    AND item IN (SELECT value FROM json_each(:ids))
    AND processed_at IS NOT NULL AND (expires_at IS NULL OR expires_at > :now);

-- ledger_mark --
WITH given (item) AS (VALUES :rows)
INSERT INTO ledger (workflow, item, processed_at, expires_at)
SELECT :workflow, item, :now, :expires_at FROM given WHERE item IS NOT NULL
ON CONFLICT (workflow, item) DO UPDATE SET processed_at = excluded.processed_at, expires_at = excluded.expires_at;

-- ledger_forget --
WITH given (item) AS (VALUES :rows)
DELETE FROM ledger
WHERE workflow = :workflow AND item IN (SELECT item FROM given) AND processed_at IS NOT NULL AND holder IS NULL;

-- ledger_forget_held --
WITH given (item) AS (VALUES :rows)
UPDATE ledger SET processed_at = NULL, expires_at = NULL
WHERE workflow = :workflow AND item IN (SELECT item FROM given) AND processed_at IS NOT NULL;

-- ledger_forget_all --
DELETE FROM ledger WHERE workflow = :workflow AND processed_at IS NOT NULL AND holder IS NULL;

-- ledger_forget_all_held --
UPDATE ledger SET processed_at = NULL, expires_at = NULL WHERE workflow = :workflow AND processed_at IS NOT NULL;

-- prune_ledger_expired --
-- By the primary key; the sign keeps SQLite from reading all that has expired for each slice.
WITH gone AS MATERIALIZED (
    SELECT workflow, item FROM ledger WHERE expires_at <= :now AND holder IS NULL LIMIT :limit)
DELETE FROM ledger WHERE workflow IN (SELECT workflow FROM gone) AND item IN (SELECT item FROM gone)
    AND +expires_at <= :now AND holder IS NULL;

-- prune_steps --
DELETE FROM step WHERE run IN (SELECT id FROM run WHERE ended_at < :before ORDER BY ended_at, id LIMIT :limit);

-- prune_runs --
DELETE FROM run WHERE id IN (SELECT id FROM run WHERE ended_at < :before ORDER BY ended_at, id LIMIT :limit);

-- prune_dead_letters --
DELETE FROM dead_letter WHERE id IN (SELECT id FROM dead_letter WHERE died_at < :before LIMIT :limit);

-- prune_batch_pick --
SELECT key FROM batch WHERE ended_at < :before AND working = 0 LIMIT 1;

-- prune_items --
DELETE FROM item WHERE batch = :batch AND number IN (SELECT number FROM item WHERE batch = :batch LIMIT :limit);

-- prune_batch --
DELETE FROM batch WHERE key = :batch AND NOT EXISTS (SELECT 1 FROM item WHERE batch = :batch);
