-- Messages: one hash each, which also keeps the run or the dead letter of an ended message. An item has a hash from its
-- first claim on, without d, k, b and n, which follow from its batch and its id.
-- Fields: d, k: destination and flow key, u: due (0: at once), o: the worker that holds it, f: fence, x: failures, l:
-- losses, c: cancelled, b, n: batch and number, i: item, kp: kept when it has ended, t, st: made and started at, y:
-- body, h: headers, r: retry, e: error, L: label, p, ps, dp: parent, its step, depth, ln: it waits or has waited for
-- events, webhooks or children, of: destination of its failure message, od: open_dedup, he: held back until its batch
-- is walked, pa: the key under which that of an item is nested, at: failed and lost attempts in all, wt: why it waits (RETRYING, PARKED), lg: its latest failed attempts,
-- s<number>: steps; of an ended message z: its state, za: ended at, v: its result; of a dead letter sc, fp: status and
-- fingerprint of its error, fc: the latest call of its failure function.
local FIELDS = {
  'd', 'k', 'u', 'o', 'f', 'x', 'l', 'c', 'b', 'n', 'i', 'kp', 't', 'st', 'e', 'L', 'p', 'ps', 'ln', 'dp', 'z',
  'of', 'od', 'he', 'at', 'wt', 'pa',
}

-- Add the fields of an item's message that follow from its id.
function messages.add_item_fields(id, found)
  if found.i and not found.b then
    found.b, found.n = string.sub(id, 1, -12), tonumber(string.sub(id, -9))
    local batch = batches.get(found.b)
    found.d, found.k = batch.d, found.k or batch.k
  end
  return found
end

local function with_numbers(id, found)
  found.f, found.x, found.l = tonumber(found.f or 0), tonumber(found.x or 0), tonumber(found.l or 0)
  found.n = tonumber(found.n or -1)
  found.at, found.wt = tonumber(found.at or 0), tonumber(found.wt or 0)
  return messages.add_item_fields(id, found)
end

-- Load a message that has not ended.
function messages.load(id)
  if buffer.gone[id] then return nil end
  local reply = call('HMGET', P .. 'm:' .. id, unpack(FIELDS))
  if not (reply[1] or reply[11]) or reply[21] then return nil end
  local found = {}
  for place, field in ipairs(FIELDS) do found[field] = reply[place] or nil end
  return with_numbers(id, found)
end

-- Load a dead letter.
function messages.load_dead(id)
  local reply = call('HMGET', P .. 'm:' .. id, unpack(FIELDS))
  if reply[21] ~= 'dead' then return nil end
  local found = {}
  for place, field in ipairs(FIELDS) do found[field] = reply[place] or nil end
  return with_numbers(id, found)
end

-- Load the message of a claim, if it is still held with this fence.
function messages.held(id, fence)
  local found = messages.load(id)
  if not found or not found.o or found.f ~= fence then return nil end
  return found
end

-- Load the fields that the end of an item needs, if it has neither been cancelled nor waited for anything; else nil.
function messages.held_item(id, fence)
  if buffer.gone[id] then return nil end
  local reply = call('HMGET', P .. 'm:' .. id, 'i', 'o', 'f', 'c', 'ln', 'at', 'k', 'pa')
  if not reply[1] or not reply[2] or reply[4] or reply[5] or tonumber(reply[3]) ~= fence then return nil end
  local name = string.sub(id, 1, -12)
  local batch = batches.get(name)
  if batch.s == 'cancelling' then return nil end
  local number, attempts = tonumber(string.sub(id, -9)), tonumber(reply[6] or 0)
  return {
    i = reply[1], o = reply[2], f = fence, b = name, n = number, d = batch.d, k = reply[7] or batch.k, at = attempts,
    pa = reply[8] or nil,
  }
end

function messages.is_cancelled(message) return message.c or batches.is_cancelling(message.b) end

-- Store a message whose id is new, and put it into its queue.
function messages.add(about)
  flows.apply_message_limits(about.flow)
  local key, id = about.flow[LIMITS.key], about.id
  local fields = { 'd', about.d, 'k', key, 'u', about.u, 't', NOW }
  for _, field in ipairs({ 'b', 'y', 'h', 'r', 'L', 'p', 'ps', 'of', 'od' }) do
    if about[field] then
      fields[#fields + 1] = field
      fields[#fields + 1] = about[field]
    end
  end
  if about.kp then
    fields[#fields + 1] = 'kp'
    fields[#fields + 1] = 1
  end
  if about.he then
    fields[#fields + 1] = 'he'
    fields[#fields + 1] = 1
  end
  if about.dp and about.dp > 0 then
    fields[#fields + 1] = 'dp'
    fields[#fields + 1] = about.dp
  end
  call('HSET', P .. 'm:' .. id, unpack(fields))
  flows.add(key, 'w', 1)
  lanes.enqueue(id, { d = about.d, k = key, b = about.b, he = about.he, f = 0, l = 0 }, about.u)
  if about.b then
    call('SADD', P .. 'bm:' .. about.b, id)
    batches.add(batches.get(about.b), 'wk', 1)
  end
  if about.kp then call('ZADD', P .. 'runs', now, id) end
  if about.od then call('HSET', P .. 'dk', about.od, id) end
  messages.index(id, { d = about.d, kp = about.kp, L = about.L, p = about.p, t = now })
end

-- Add a message to the indexes of messages that have not ended.
function messages.index(id, message)
  if message.kp then call('ZADD', P .. 'od:' .. message.d, message.t, id) end
  if message.L then call('ZADD', P .. 'ol:' .. message.L, message.t, id) end
  if message.p then call('SADD', P .. 'kids:' .. message.p, id) end
end

-- Delete a waiting message, as if it had never been published.
function messages.remove(id, message)
  flows.add(message.k, 'w', -1)
  lanes.dequeue(id, message)
  call('DEL', P .. 'm:' .. id)
  if message.b then
    call('SREM', P .. 'bm:' .. message.b, id)
    batches.add(batches.get(message.b), 'wk', -1)
  end
  if message.p then call('SREM', P .. 'kids:' .. message.p, id) end
end

-- Tell the outcome of a child that has ended to its parent, which has dropped the step that waited for it.
function messages.tell_outcome(id, parent, step)
  local how, result, error, of = unpack(call('HMGET', P .. 'm:' .. id, 'z', 'v', 'e', 'p'))
  if how and of == parent then events.add_arrival(parent, step, ARRIVES_AFTER[how], result or nil, error or nil) end
end

-- Add a message unless it is known. Returns whether it was new.
function messages.publish(wire)
  local id, batch = wire[MESSAGE.id], or_nil(wire[MESSAGE.batch])
  local parent, dedup = or_nil(wire[MESSAGE.parent]), or_nil(wire[MESSAGE.open_dedup])
  if parent then events.mark_waiting(parent) end
  if call('EXISTS', P .. 'm:' .. id) == 1 then
    if parent then messages.tell_outcome(id, parent, tonumber(wire[MESSAGE.parent_step])) end
    return false
  end
  if batch and not batches.accepts_messages(batches.get(batch)) then return false end
  if dedup and call('HEXISTS', P .. 'dk', dedup) == 1 then return false end
  messages.add({
    id = id, d = wire[MESSAGE.destination], flow = wire[MESSAGE.flow], y = or_nil(wire[MESSAGE.body]),
    h = or_nil(wire[MESSAGE.headers]), r = or_nil(wire[MESSAGE.retry]),
    u = wire[MESSAGE.not_before] > now and wire[MESSAGE.not_before] or 0, b = batch, kp = wire[MESSAGE.keep] or nil,
    L = or_nil(wire[MESSAGE.label]), p = parent, ps = or_nil(wire[MESSAGE.parent_step]), dp = wire[MESSAGE.depth],
    of = or_nil(wire[MESSAGE.on_failure]), od = dedup, he = wire[MESSAGE.held] or nil,
  })
  return true
end

-- Put a message that a worker holds back into its queue. `failed`: the number of its failed or lost attempts, and the
-- reason for which it waits or 0.
function messages.release(id, message, due, failures, losses, error, failed)
  local key = P .. 'm:' .. id
  if failed then
    message.at, message.wt = message.at + failed[1], failed[2]
    call('HSET', key, 'at', message.at, 'wt', message.wt)
    if message.n >= 0 then batches.count_waiting(batches.get(message.b), message.wt, 1) end
  end
  local fields = { 'u', due, 'x', failures, 'l', losses }
  if error then
    fields[7], fields[8] = 'e', error
    call('HDEL', key, 'o')
  else
    call('HDEL', key, 'o', 'e')
  end
  call('HSET', key, unpack(fields))
  call('HDEL', P .. 'w:' .. message.o, id)
  workers.end_alone(id, message)
  flows.add_of(message, 'w', 1)
  message.o, message.e, message.u, message.x, message.l = nil, error, due, failures, losses
  lanes.enqueue(id, message, due)
  flows.release(message.k, 1, id)
  if message.pa then flows.release(message.pa, 1, id) end
end

-- Mark a leased message as cancelled: it ends at its next step.
function messages.cancel_leased(id, message)
  call('HSET', P .. 'm:' .. id, 'c', 1)
  call('HSET', P .. 'w:' .. message.o, id, '!')
  messages.unindex(id, message)
end

-- Remove a message from the indexes of messages that have not ended.
function messages.unindex(id, message)
  if message.kp then call('ZREM', P .. 'od:' .. message.d, id) end
  if message.L then call('ZREM', P .. 'ol:' .. message.L, id) end
end

-- Keep failures [type, place, message] of an attempt that took `took` ms with its message: the latest ones, latest first.
-- Without any of these it is `error`.
function messages.log_attempts(id, failures, took, error)
  if #failures == 0 then failures = { { '', '', error } } end
  local key, kept = P .. 'm:' .. id, {}
  for place = #failures, 1, -1 do
    local ms = took and took > 0 and math.floor(took * 10 + 0.5) / 10
    kept[#kept + 1] = { now, or_null(ms), failures[place][3] }
  end
  local before = call('HGET', key, 'lg')
  for _, one in ipairs(before and cjson.decode(before) or {}) do kept[#kept + 1] = one end
  for place = #kept, KEPT_ATTEMPTS + 1, -1 do kept[place] = nil end
  call('HSET', key, 'lg', cjson.encode(kept))
end

-- Reclaim a message from its worker, as lost or as if it had not been claimed.
function messages.reclaim(id, message, lost)
  local losses = message.l + (lost and 1 or 0)
  if messages.is_cancelled(message) then
    settling.finish(id, message, { how = 'cancelled' })
  elseif lost and losses >= LOSS_LIMIT then
    local error = string.format(WORKER_LOST, losses)
    -- Not counted as a failure: the workers were lost, the message did not fail.
    local failed = { 1, 0, { { string.match(error, '^%w+'), '', error } }, error, LOST_STATUS, LOST_FINGERPRINT }
    settling.finish(id, message, { how = 'dead', error = error, failures = message.x, losses = losses, failed = failed })
  else
    if lost then messages.log_attempts(id, { { '', '', LOST } }, 0) end
    local wait = lost and losses >= SUSPECT_LOSSES and LOSS_WAITS_MS[math.min(losses - SUSPECT_LOSSES + 1, #LOSS_WAITS_MS)]
    messages.release(id, message, wait and now + wait or 0, message.x, losses, nil, lost and { 1, 0 })
    if lost and message.b and message.n >= 0 then items.fail(message, nil) end
  end
end

-- The steps that a redriven run executes again: all, or pending ones and the latest that failed.
local function dropped_steps(fields, restart)
  local found, failed = {}, 0
  for _, step in ipairs(steps.of(fields)) do
    local about = cjson.decode(step[2])
    found[#found + 1] = { number = step[1], kind = about[STEP.kind], state = about[STEP.state], at = about[STEP.position] }
    if about[STEP.state] == 'failed' then failed = math.max(failed, about[STEP.position]) end
  end
  local dropped = {}
  for _, step in ipairs(found) do
    if restart or step.state == 'pending' or step.state == 'failed' and step.at == failed then
      dropped[#dropped + 1] = step
    end
  end
  return dropped
end

local function child_of(id, step)
  return (step.kind == 'invoke' or step.kind == 'call') and id .. '.' .. step.number
end

-- Remove a kept run or a dead letter. False if it is neither.
function messages.remove_ended(id)
  local ended, batch, key, parent = unpack(call('HMGET', P .. 'm:' .. id, 'z', 'b', 'k', 'pa'))
  if not ended then return false end
  if ended == 'dead' then
    if batch then call('ZREM', P .. 'bd:' .. batch, id) end
    if key then flows.add_of({ k = key, pa = parent }, 'dl', -1) end
    events.drop_webhooks(id)
  end
  call('DEL', P .. 'm:' .. id)
  for _, index in ipairs({ 'runs', 'ended', 'dead' }) do call('ZREM', P .. index, id) end
  return true
end

-- Drop a child that has ended, with its own children, so that it can be started anew.
local function drop_ended(id)
  local fields = to_table(call('HGETALL', P .. 'm:' .. id))
  if not messages.remove_ended(id) then return end
  for _, step in ipairs(dropped_steps(fields, true)) do
    local child = child_of(id, step)
    if child then drop_ended(child) end
  end
end

-- Put a dead letter back into its queue, due at once; with `restart` without its journal, with `retry` and the limits `flow`
-- instead of its own. False if there is none or its batch does not accept it.
function messages.redrive(id, restart, retry, flow)
  local message = messages.load_dead(id)
  if not message then return false end
  local batch = message.b and batches.get(message.b)
  if message.b and not (batch and batches.reopen(batch, message, id)) then return false end
  local key, gone = P .. 'm:' .. id, { 'z', 'za', 'e', 'v', 'c', 'sc', 'fp', 'fc' }
  for _, step in ipairs(dropped_steps(to_table(call('HGETALL', key)), restart)) do
    local child = child_of(id, step)
    if child and (restart or not messages.redrive(child) and step.state == 'failed') then drop_ended(child) end
    gone[#gone + 1] = 's' .. step.number
  end
  in_slices(gone, function(part) call('HDEL', key, unpack(part)) end)
  if restart then events.drop_webhooks(id) end
  if call('EXISTS', P .. 'whr:' .. id) == 1 then call('HSET', key, 'ln', 1) end
  flows.add_of(message, 'dl', -1)
  if flow then
    flows.apply_message_limits(flow)
    message.k = flow[LIMITS.key]
    if message.pa == message.k then
      message.pa = nil
      call('HDEL', key, 'pa')
    end
  end
  call('HSET', key, 'u', 0, 'x', 0, 'l', 0, 'k', message.k)
  if retry then call('HSET', key, 'r', retry) end
  call('ZREM', P .. 'dead', id)
  if message.b then call('ZREM', P .. 'bd:' .. message.b, id) end
  if batch and message.n < 0 then call('SADD', P .. 'bm:' .. message.b, id) end
  if not message.kp then call('ZREM', P .. 'runs', id) end
  if message.od then call('HSETNX', P .. 'dk', message.od, id) end
  messages.index(id, message)
  message.x, message.l = 0, 0
  flows.add_of(message, 'w', 1)
  lanes.enqueue(id, message, 0)
  return true
end

-- publish: adds the new ones of some messages, and returns of each whether it was new. redrive: puts a dead letter back
-- into its queue, and returns whether it could. Safe to repeat.
verbs.publish = function(list)
  local new = {}
  for place, message in ipairs(list) do new[place] = messages.publish(message) end
  return new
end

verbs.redrive = function(id, restart, retry, flow)
  return messages.redrive(id, restart, or_nil(retry), or_nil(flow))
end

-- call_failure_again: publishes another failure message of a dead letter, unless the latest has not ended. delete_dead_letter:
-- removes one. False if it is not a dead letter.
verbs.call_failure_again = function(id)
  local message = messages.load_dead(id)
  if not message or message.b and message.n >= 0 and not batches.get(message.b) then return false end
  local latest = call('HGET', P .. 'm:' .. id, 'fc')
  local about = latest and cjson.decode(latest)
  if about and about[3] == 'in_progress' then return false end
  return settling.call_failure_function(id, message, about and about[2] + 1 or 1)
end

verbs.delete_dead_letter = function(id)
  return call('HGET', P .. 'm:' .. id, 'z') == 'dead' and messages.remove_ended(id)
end

-- cancel_run: ends a waiting run or marks a leased one; false if it has ended. cancel_listed, cancel_all: do the same for
-- these runs, and for a slice of the runs of a function or with a label, and return how many. Their children are cancelled
-- with them. Safe to repeat.

-- Cancel the item of a batch that nobody has claimed yet. False if the run is not such an item.
local function cancel_fresh(id)
  local batch, number, item = items.unclaimed(id)
  if not batch then return false end
  items.cancel_fresh(batch, number, item)
  local key = nested.key_of(batch, number)
  lanes.recount(batch.d, key, nested.group_of(batch, key))
  return true
end

local function cancel(id)
  local message = messages.load(id)
  if not message then return cancel_fresh(id) end
  if message.o then
    messages.cancel_leased(id, message)
  else
    settling.finish(id, message, { how = 'cancelled' })
  end
  return true
end

verbs.cancel_run = function(id)
  local found = cancel(id)
  batches.end_finished()
  return found
end

verbs.cancel_listed = function(ids)
  local count = 0
  for _, id in ipairs(ids) do
    if cancel(id) then count = count + 1 end
  end
  batches.end_finished()
  return count
end

verbs.cancel_all = function(destination, label)
  destination, label = or_nil(destination), or_nil(label)
  local key = label and P .. 'ol:' .. label or P .. 'od:' .. destination
  local found, offset = {}, 0
  while #found < SWEEP_LIMIT do
    local ids = call('ZRANGE', key, offset, offset + CHUNK - 1)
    if #ids == 0 then break end
    offset = offset + #ids
    for _, id in ipairs(ids) do
      local about = call('HMGET', P .. 'm:' .. id, 'd', 'kp')
      local fits = not destination or not label or (about[1] == destination and about[2])
      if fits and #found < SWEEP_LIMIT then found[#found + 1] = id end
    end
  end
  for _, id in ipairs(found) do cancel(id) end
  batches.end_finished()
  return #found
end

-- run: a run with its journal. runs: the kept runs without what may be large, the latest first, as far as a bounded look goes: [rows, where to
-- continue or null]. dead_letter: one, with its journal.
local LOOK = 2000

local function state_of(found)
  return found.z == 'dead' and RUN_STATE.dead or found.z or (found.o and 'running' or 'waiting')
end

-- The columns of a run, and its journal or null.
local function run_row(id, found, with_journal)
  local state, due = state_of(found), tonumber(found.u or 0)
  local waits = state == 'waiting'
  local row = row_of(RUN_COLUMNS, {
    id = id, destination = found.d, state = state, created_at = tonumber(found.t),
    started_at = tonumber(found.st), ended_at = tonumber(found.za), payload = found.y or 'null', result = found.v,
    error = found.e, failures = tonumber(found.x or 0), batch = found.b, label = found.L, parent = found.p,
    flow_key = waits and found.k, due_at = waits and due > now and due < NEVER and due,
  })
  row[#RUN_COLUMNS + 1] = with_journal and steps.text(steps.of(found)) or NULL
  return row
end

-- The fields of an item that nobody has claimed yet, which has no hash of its own.
local function fresh_item(id)
  local batch, number = items.unclaimed(id)
  return batch and { d = batch.d, k = nested.key_of(batch, number), t = batch.st or batch.t, b = batch.id }
end

reads.run = function(id)
  local found = to_table(call('HGETALL', P .. 'm:' .. id))
  if not found.d and not found.i then found = fresh_item(id) end
  return found and run_row(id, messages.add_item_fields(id, found), true) or NULL
end

local function fits(found, state, destination, label)
  return (not state or state_of(found) == state) and (not destination or found.d == destination)
    and (not label or found.L == label)
end

-- The fields of a run that a list shows: those that may be large are not read.
local LISTED = { 'd', 'k', 'u', 'z', 'o', 't', 'st', 'za', 'e', 'x', 'b', 'L', 'p', 'i', 'n' }

local function listed_fields(id)
  local found = {}
  for place, value in ipairs(call('HMGET', P .. 'm:' .. id, unpack(LISTED))) do found[LISTED[place]] = value or nil end
  return found
end

-- The members of a sorted set after one of this score, the highest score first, up to LOOK of them: call `act` with member
-- and score until it returns true. Returns the last one that `act` was called with if there may be more, else null.
function messages.each_before(index, score, member, act)
  local at, last = string.format('%.0f', score), nil
  -- Those of the same score are skipped by name: the member itself may have gone.
  local first, skipped = call('ZCOUNT', index, '(' .. at, '+inf'), nil
  repeat
    local same = call('ZREVRANGE', index, first, first + CHUNK - 1, 'WITHSCORES')
    skipped = 0
    while same[skipped * 2 + 2] == at and same[skipped * 2 + 1] >= member do skipped = skipped + 1 end
    first = first + skipped
  until skipped < CHUNK
  for offset = first, first + LOOK - 1, 200 do
    local found = call('ZREVRANGE', index, offset, offset + 199, 'WITHSCORES')
    for place = 1, #found, 2 do
      last = { tonumber(found[place + 1]), found[place] }
      if act(found[place], last[1]) then return last end
    end
    if #found < 400 then return NULL end
  end
  return last
end

reads.runs = function(state, destination, label, before_at, before_id, limit)
  state, destination, label = or_nil(state), or_nil(destination), or_nil(label)
  local rows = {}
  if limit < 1 then return { rows, NULL } end
  local more = messages.each_before(P .. 'runs', before_at, before_id, function(id)
    local run = messages.add_item_fields(id, listed_fields(id))
    if fits(run, state, destination, label) then rows[#rows + 1] = run_row(id, run, false) end
    return #rows == limit
  end)
  return { rows, #rows < limit and more or NULL }
end

-- The columns of a dead letter, and its journal or null. `found`: its fields, all of them or those of LISTED_DEAD.
local function letter_row(id, found)
  local flow = flows.get(found.k) or flows.unlimited(found.k)
  local number, batch = tonumber(found.n or -1), found.b and batches.get(found.b)
  local of = found.of
  if number >= 0 then of = batch and batch.of end
  local row = row_of(DEAD_LETTER_COLUMNS, {
    id = id, destination = found.d, flow = found.k, parallelism = flow.p > 0 and flow.p, rate = flow.r > 0 and flow.r,
    period = flow.per, burst = flow.bu, body = found.y or 'null', headers = found.h, retry = found.r, batch = found.b,
    keep = found.kp ~= nil, label = found.L, parent = found.p, parent_step = tonumber(found.ps),
    depth = tonumber(found.dp or 0), on_failure = of, open_dedup = found.od, error = found.e or '',
    failures = tonumber(found.x or 0), losses = tonumber(found.l or 0), created_at = tonumber(found.t),
    started_at = tonumber(found.st), died_at = tonumber(found.za), item = found.i, number = number,
    attempts = tonumber(found.at or 0), log = found.lg, status = tonumber(found.sc), fingerprint = found.fp,
    workflow = batch and batch.w, batch_label = batch and batch.L, failure = found.fc,
  })
  row[#DEAD_LETTER_COLUMNS + 1] = NULL
  return row
end

reads.dead_letter = function(id)
  local found = to_table(call('HGETALL', P .. 'm:' .. id))
  if found.z ~= 'dead' then return NULL end
  local row = letter_row(id, messages.add_item_fields(id, found))
  row[#row] = steps.text(steps.of(found))
  return row
end

-- The fields of a dead letter that a list shows: those that may be large are not read.
local LISTED_DEAD = {
  'd', 'k', 'f', 'x', 'l', 'b', 'n', 'i', 'kp', 't', 'st', 'e', 'L', 'p', 'ps', 'dp', 'r', 'of', 'od', 'at', 'z', 'za',
  'sc', 'fp', 'fc',
}

local function fits_letter(id, found, query)
  local batch = found.b and batches.get(found.b)
  local workflow, died = or_nil(query.workflow), tonumber(found.za)
  if workflow and (batch and batch.w or not found.b and found.d) ~= workflow then return false end
  local wanted = or_nil(query.destination)
  if wanted and wanted ~= found.d and not (query.is_url and string.sub(wanted, -#found.d) == found.d) then return false end
  local label = found.L or batch and batch.L
  return (not or_nil(query.run) or query.run == id or query.run == found.p)
    and (not or_nil(query.item) or query.item == found.i) and (not or_nil(query.label) or query.label == label)
    and (not or_nil(query.status) or query.status == tonumber(found.sc))
    and (not or_nil(query.fingerprint) or query.fingerprint == (found.fp or ''))
    and (not or_nil(query.since) or died >= query.since) and (not or_nil(query['until']) or died < query['until'])
end

-- Call `act` with the dead letters that match, the latest first, as far as a bounded look goes, until it returns true: id,
-- fields. Returns where to continue or null.
local function each_letter(query, before_at, before_id, act)
  local index = or_nil(query.batch) and P .. 'bd:' .. query.batch or P .. 'dead'
  return messages.each_before(index, before_at, before_id, function(id)
    local letter = {}
    for place, value in ipairs(call('HMGET', P .. 'm:' .. id, unpack(LISTED_DEAD))) do
      letter[LISTED_DEAD[place]] = value or nil
    end
    messages.add_item_fields(id, letter)
    return letter.z == 'dead' and fits_letter(id, letter, query) and act(id, letter)
  end)
end

-- dead_letters: those that match, without what may be large: [rows, where to continue or null].
reads.dead_letters = function(query, before_at, before_id, limit)
  local rows = {}
  if limit < 1 then return { rows, NULL } end
  local more = each_letter(query, before_at, before_id, function(id, letter)
    rows[#rows + 1] = letter_row(id, letter)
    return #rows == limit
  end)
  return { rows, more }
end

-- dead_letter_groups: [fingerprint, size, first, last, the latest one, its error] of those that match in a slice, and where
-- to continue or null.
reads.dead_letter_groups = function(query, before_at, before_id)
  local found, names = {}, {}
  local more = each_letter(query, before_at, before_id, function(id, letter)
    local name, died = letter.fp or '', tonumber(letter.za)
    if not found[name] then
      found[name] = { name, 0, died, died, id, letter.e or '' }
      names[#names + 1] = name
    end
    found[name][2], found[name][3] = found[name][2] + 1, died
  end)
  local rows = {}
  for place, name in ipairs(names) do rows[place] = found[name] end
  return { rows, more }
end

-- under_way: the message or batch that has not ended under an open_dedup.
reads.under_way = function(dedup) return or_null(call('HGET', P .. 'dk', dedup)) end
