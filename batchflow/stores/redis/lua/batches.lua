-- Batches: opening, walking, cancelling, ending. The hash of a batch is read once in a group and written at its end.
-- Fields: w, lg: workflow and ledger, s: state, d, k, kf: destination, flow key and limits of its items, cp, cf:
-- destination and flow of its completion, hd: headers, of: destination of failure messages, tt: lifetime of marks in
-- ms, kr: results are kept, fo: forced, na: its ids are named, L: label, od: open_dedup, pz: paused, wd: walked, bk:
-- the walk broke off, ge: generation, e: error, en: entered, wk: messages of its layers that have not ended, pg: pages,
-- ch: chunks, to: total, el, op, su, fa, ca, ap, fl, du, lo: counts, wm: worked ms, t, st, za: made, started and ended
-- at, p, ps, dp: parent, its step, depth, sq: its number among all batches, hi: one above its highest item, sw: items
-- looked at by the cancellation, dd: items have data, rt, pa: open items that wait after a failed attempt, or for a rate
-- limit; ce: the error of its completion, nu: its notify_url, nn: the number of notifications so far, nt: the latest one.
-- Of a retry, ro: the batch that it retries, sd: items of that whose ids are among its own, rps, rpf, rpc: earlier runs of
-- its items by the letter of their state, rc: items that it has recovered. pr: its priority if it is not 0.
-- fb: failure budget as JSON, bs, bf: the counts su and fa from which it counts on, sr: the reason for which it is paused
-- or was cancelled, none for an operator. cn: the items of its canary, cu: the share of them that may fail so that it
-- approves itself, ua: 1 until it is approved.
local NUMBERS = {
  'na', 'pz', 'wd', 'bk', 'ge', 'kr', 'fo', 'en', 'wk', 'pg', 'ch', 'to', 'el', 'op', 'su', 'fa', 'ca', 'ap', 'fl', 'du',
  'lo', 'wm', 't', 'st', 'za', 'ps', 'dp', 'sq', 'hi', 'sw', 'tt', 'rt', 'pa',
  'pr', 'nn', 'cn', 'cu', 'ua',
}
-- Of these, the ones that are 0 when a batch is opened.
local ZERO = {
  'en', 'wk', 'pg', 'ch', 'el', 'op', 'su', 'fa', 'ca', 'ap', 'fl', 'du', 'lo', 'wm', 'hi', 'sw', 'pz',
}
local OF_RETRY = { 'sd', 'rps', 'rpf', 'rpc', 'rc' }
on_each_call(function() batches.cache = {} end)

function batches.get(id)
  local batch = batches.cache[id]
  if batch == nil then
    local reply = call('HGETALL', P .. 'b:' .. id)
    if #reply == 0 then return nil end
    batch = to_table(reply)
    for _, field in ipairs(NUMBERS) do batch[field] = tonumber(batch[field]) end
    if batch.ro then
      for _, field in ipairs(OF_RETRY) do batch[field] = tonumber(batch[field] or 0) end
    end
    -- A batch that schema 10 has opened has neither.
    batch.rt, batch.pa = batch.rt or 0, batch.pa or 0
    batch.id, batch.dirty, batch.names = id, {}, {}
    batches.cache[id] = batch
  end
  return batch
end

function batches.set(batch, field, value)
  batch[field] = value
  batch.dirty[field] = true
end

function batches.clear(batch, field)
  if batch[field] == nil then return end
  batch[field], batch.dirty[field] = nil, nil
  call('HDEL', P .. 'b:' .. batch.id, field)
end

function batches.add(batch, field, delta) batches.set(batch, field, batch[field] + delta) end

-- Count the items that begin or cease to wait for one of the reasons RETRYING and PARKED.
function batches.count_waiting(batch, reason, count)
  if reason == RETRYING then batches.add(batch, 'rt', count) end
  if reason == PARKED then batches.add(batch, 'pa', count) end
end

-- Add failures [type, place, message] of a message to the error groups of its batch; with `ended` the last of them is
-- the one that its item has failed with for good.
function batches.add_failures(message, failures, ended)
  local key = P .. 'er:' .. message.b
  for place, failure in ipairs(failures) do
    local name = failure[1] .. '\n' .. failure[2]
    local known = call('HGET', key, name)
    if not known and call('HLEN', key) >= MAX_ERROR_GROUPS - 1 then
      name = OTHER_ERRORS .. '\n'
      known = call('HGET', key, name)
    end
    local before = known and cjson.decode(known) or { 0, 0 }
    local failed = before[2] + (ended and message.n >= 0 and place == #failures and 1 or 0)
    call('HSET', key, name, cjson.encode({ before[1] + 1, failed, failure[3], message.i or NULL, message.n, now }))
  end
end

-- The error groups of a batch, in the order of ErrorGroup's fields.
local function error_groups(id)
  local rows = {}
  for name, text in pairs(to_table(call('HGETALL', P .. 'er:' .. id))) do
    local kind, place = string.match(name, '^(.-)\n(.*)$')
    rows[#rows + 1] = { kind, place, unpack(cjson.decode(text), 1, 6) }
  end
  return rows
end

function batches.flush()
  for id, batch in pairs(batches.cache) do
    local changed = {}
    for field in pairs(batch.dirty) do
      local value = batch[field]
      changed[#changed + 1] = field
      changed[#changed + 1] = type(value) == 'number' and string.format('%.17g', value) or value
    end
    if #changed > 0 then call('HSET', P .. 'b:' .. id, unpack(changed)) end
    batch.dirty = {}
  end
end

function batches.is_cancelling(id)
  local batch = id and batches.get(id)
  return batch and batch.s == 'cancelling'
end

function batches.accepts_messages(batch) return batch and not batch.za and batch.s ~= 'cancelling' end

function batches.enter(id, total, left_out)
  local batch = batches.get(id)
  if not batch or batch.en == 1 then return end
  batches.set(batch, 'en', 1)
  batches.set(batch, 'st', now)
  batches.add(batch, 'lo', left_out)
  if or_nil(total) then batches.set(batch, 'to', total) end
  if batch.s == 'pending' then batches.set(batch, 's', 'open') end
end

-- The walk has ended: messages that were held back can be claimed from now on.
function batches.walked(id, total)
  local batch = batches.get(id)
  if not batch or batch.za then return end
  batches.set(batch, 'wd', 1)
  if or_nil(total) then batches.set(batch, 'to', total) end
  lanes.open(id)
end

-- Count the end of a message of a batch's layers.
function batches.finish_layer(batch, id, how, error)
  call('SREM', P .. 'bm:' .. batch.id, id)
  batches.add(batch, 'wk', -1)
  error = how ~= 'done' and (error or "its run '" .. id .. "' was cancelled") or nil
  if batches.is_completion(batch, id) then
    if error then
      batches.set(batch, 'ce', error)
    else
      batches.clear(batch, 'ce')
    end
    -- A batch may have been reopened, and have ended again, while the completion of its first end ran.
    if id == batches.completion_id(batch) then batches.publish_notification(batch) end
  elseif how ~= 'done' and not batch.za and batch.s ~= 'cancelling' then
    if not batch.e then batches.set(batch, 'e', error) end
    batches.set(batch, 'en', 1)
    state.broken[batch.id] = true
  end
  state.touched[batch.id] = true
end

-- Cancel up to `limit` of the messages that a broken-off walk had held back. Returns how many.
function batches.cancel_held_back(batch, limit)
  local count = 0
  for _, id in ipairs(call('SMEMBERS', P .. 'bm:' .. batch.id)) do
    local message = messages.load(id)
    if message and message.he and not message.o then
      if count == limit then return count end
      settling.finish(id, message, { how = 'cancelled' })
      count = count + 1
    end
  end
  call('SREM', P .. 'bc', batch.id)
  return count
end

local function stop_walk(id)
  local batch = batches.get(id)
  if not batch or batch.za or batch.wd == 1 or batch.bk == 1 then return end
  local held = false
  lanes.each(id, function(_, _, group) held = held or lanes.is_held_back(group) end)
  if not held then return end
  batches.set(batch, 'bk', 1)
  call('SADD', P .. 'bc', id)
  batches.cancel_held_back(batch, SWEEP_LIMIT)
end

-- Release the held messages of a batch with a canary. False if that changes nothing.
function batches.approve(id)
  local batch = batches.get(id)
  if not batches.accepts_messages(batch) or batch.ua ~= 1 then return false end
  batches.set(batch, 'ua', 0)
  lanes.open(id)
  return true
end

-- The items of a batch have all ended: approve it if they are its canary, and so few of them have failed.
local function end_canary(batch)
  local count, held = batch.su + batch.fa + batch.ca, false
  if batch.s == 'cancelling' or count < batch.cn then return end
  lanes.each(batch.id, function(destination, key, group)
    held = held or lanes.is_held_back(group) and lanes.first_due(destination, key, group) ~= nil
  end)
  if not held then return end
  state.notices[#state.notices + 1] = { 'canary_ended', batch.id }
  if batch.cu and batch.fa <= batch.cu * count then batches.approve(batch.id) end
end

-- End the touched batches that have nothing left to do. Returns the ids of those that ended.
function batches.end_finished()
  local ended = {}
  while next(state.broken) do
    local id = next(state.broken)
    state.broken[id] = nil
    stop_walk(id)
  end
  while next(state.touched) do
    local id = next(state.touched)
    state.touched[id] = nil
    local batch = batches.get(id)
    if batch and not batch.za and batch.wk == 0 and (batch.en == 1 or batch.s == 'cancelling') then
      if batch.op == 0 then
        batches.finish(batch)
        ended[id] = true
        state.ended[id] = true
      elseif batch.s == 'open' then
        batches.set(batch, 's', 'sealed')
      end
    elseif batch and batch.ua == 1 and batch.op == 0 and not batch.za then
      end_canary(batch)
    end
  end
  return ended
end

function batches.is_completion(batch, id) return string.sub(id, 1, #batch.id + 2) == batch.id .. '.z' end

function batches.completion_id(batch) return batch.id .. (batch.ge == 1 and '.z' or '.z' .. batch.ge) end

function batches.finish(batch)
  local id = batch.id
  items.drop_ranges(batch)
  if batch.s ~= 'cancelling' then batches.clear(batch, 'sr') end
  batches.set(batch, 's', batch.s == 'cancelling' and 'cancelled' or batch.e and 'failed' or 'completed')
  batches.set(batch, 'za', now)
  batches.set(batch, 'pz', 0)
  flows.add(batch.k, 'ob', -1)
  if batch.od and call('HGET', P .. 'dk', batch.od) == id then call('HDEL', P .. 'dk', batch.od) end
  call('SREM', P .. 'bc', id)
  call('ZREM', P .. 'bo', id)
  call('ZADD', P .. 'be', now, id)
  call('DEL', P .. 'bi:' .. id, P .. 'bq:' .. id)
  if batch.p then call('SREM', P .. 'kidb:' .. batch.p, id) end
  if batch.ro then batches.set(batch, 'sd', 0) end
  if batch.cp then batches.publish_completion(batch) else batches.publish_notification(batch) end
  notify_stores()
end

function batches.publish_completion(batch)
  if not batch.cp then return end
  -- Not by `publish`: an ended batch accepts no messages but this one.
  messages.add({
    id = batches.completion_id(batch), d = batch.cp, flow = cjson.decode(batch.cf), u = 0, b = batch.id,
    p = batch.p, ps = batch.ps, dp = batch.dp,
  })
end

local function notification_id(batch) return batch.id .. '.n' .. (batch.nn or 0) end

-- Publish the notification of a batch's end; nothing if it is open again.
function batches.publish_notification(batch)
  if not batch.nu or not batch.za then return end
  batches.set(batch, 'nn', (batch.nn or 0) + 1)
  batches.set(batch, 'nt', cjson.encode({ 'in_progress', now, NULL }))
  messages.add({
    id = notification_id(batch), d = NOTIFICATION_DESTINATION, flow = flows.of_destination(NOTIFICATION_DESTINATION),
    y = cjson.encode(batch.id), u = 0, p = batch.id, ps = NOTIFICATION_STEP,
  })
end

-- Note the outcome of a notification: only the latest one counts.
function batches.end_notification(id, message, by)
  call('SREM', P .. 'kids:' .. message.p, id)
  local batch = batches.get(message.p)
  if not batch or id ~= notification_id(batch) then return end
  local state, error = by.how == 'done' and 'succeeded' or 'failed', by.error
  if state == 'failed' and not error then error = "its run '" .. id .. "' was cancelled" end
  batches.set(batch, 'nt', cjson.encode({ state, now, or_null(error) }))
end

-- Drop the notification of an end that is undone; one that a worker is sending does not count any more.
local function drop_notification(batch)
  if not batch.nt then return end
  local id = notification_id(batch)
  local waits = messages.load(id)
  if waits and not waits.o then messages.remove(id, waits) end
  batches.add(batch, 'nn', 1)
  batches.clear(batch, 'nt')
end

local function set_stop_reason(batch, reason)
  if reason then batches.set(batch, 'sr', reason) else batches.clear(batch, 'sr') end
end

-- Lease nothing more of a batch. False if it has ended or is unknown.
function batches.begin_cancel(id, reason)
  local batch = batches.get(id)
  if not batch or batch.za then return false end
  if batch.s ~= 'cancelling' then set_stop_reason(batch, reason) end
  batches.set(batch, 's', 'cancelling')
  call('SADD', P .. 'bc', id)
  lanes.close(id)
  state.touched[id] = true
  return true
end

-- Pause a batch or resume it. False if that changes nothing.
function batches.pause(id, paused, reason)
  local batch = batches.get(id)
  if not batches.accepts_messages(batch) or paused == 0 and batch.pz ~= 1 then return false end
  batches.set(batch, 'pz', paused)
  set_stop_reason(batch, reason)
  if paused == 0 then batches.count_failures_anew(batch) end
  if paused == 1 then lanes.close(id) else lanes.open(id) end
  return true
end

-- Change the priority of a batch. False if it has ended, is cancelled or is unknown.
function batches.set_priority(id, priority)
  local batch = batches.get(id)
  if not batches.accepts_messages(batch) then return false end
  batches.set(batch, 'pr', priority)
  lanes.each(id, lanes.recount)
  return true
end

function batches.count_failures_anew(batch)
  if not batch.fb then return end
  batches.set(batch, 'bs', batch.su)
  batches.set(batch, 'bf', batch.fa)
end

-- Pause or cancel a batch with more failed items than its failure budget allows.
function batches.enforce_failure_budget(batch)
  if batch.s == 'cancelling' or batch.op == 0 and batch.wk == 0 then return end
  local most, rate, least, action = unpack(cjson.decode(batch.fb))
  if batch.pz == 1 and action == 'pause' then return end
  local failed = math.max(0, batch.fa - (tonumber(batch.bf) or 0))
  local ended = failed + math.max(0, batch.su - (tonumber(batch.bs) or 0))
  local exceeded = or_nil(most) and failed > most or or_nil(rate) and ended >= least and failed > rate * ended
  if not exceeded then return end
  state.notices[#state.notices + 1] = { 'budget_exceeded', batch.id }
  if action == 'cancel' then
    batches.begin_cancel(batch.id, 'failure_budget')
    -- `sweep_cancelled` cancels the rest of a very large batch later.
    batches.cancel_waiting(batch, SWEEP_LIMIT)
  else
    batches.pause(batch.id, 1, 'failure_budget')
  end
end

-- Reopen a batch for a redriven dead letter: its item is open again, or its walk continues. False if that is
-- impossible.
function batches.reopen(batch, message, id)
  if batches.is_completion(batch, id) then
    drop_notification(batch)
    batches.add(batch, 'wk', 1)
    return true
  end
  if batch.s == 'cancelling' or message.n < 0 and batch.bk == 1 then return false end
  if message.n >= 0 and retries.has_taken(batch, message.n, message.i) then return false end
  drop_notification(batch)
  if batch.s == 'cancelled' then batches.set(batch, 'e', RUN_AFTER_CANCEL) end
  if batch.za then
    local completion = batches.completion_id(batch)
    local waits = messages.load(completion)
    -- The completion of an end that is undone.
    if waits and not waits.o then messages.remove(completion, waits) end
    batches.set(batch, 's', message.n < 0 and batch.st and 'open' or message.n < 0 and 'pending' or 'sealed')
    batches.set(batch, 'ge', batch.ge + 1)
    batches.clear(batch, 'za')
    batches.clear(batch, 'sr')
    call('ZREM', P .. 'be', batch.id)
    call('ZADD', P .. 'bo', batch.sq, batch.id)
    flows.apply_message_limits(cjson.decode(batch.kf))
    flows.add(batch.k, 'ob', 1)
  elseif message.n < 0 then
    batches.set(batch, 's', batch.st and 'open' or 'pending')
  end
  if message.n >= 0 then
    items.reopen(batch, message)
  else
    if batch.e ~= RUN_AFTER_CANCEL then batches.clear(batch, 'e') end
    batches.set(batch, 'en', batch.st and 1 or 0)
    batches.add(batch, 'wk', 1)
  end
  return true
end

-- Cancel up to `limit` waiting messages and items of a batch that is being cancelled. Returns how many.
function batches.cancel_waiting(batch, limit)
  -- Items that have ended in the same group.
  buffer.flush()
  local count = 0
  for _, id in ipairs(call('SMEMBERS', P .. 'bm:' .. batch.id)) do
    local message = count < limit and messages.load(id)
    if message and not message.o then
      settling.finish(id, message, { how = 'cancelled' })
      count = count + 1
    end
  end
  local at = batch.sw
  while at < batch.hi and count < limit do
    local value = call('HGET', items.bucket(batch.id, at), at)
    if value and string.sub(value, 1, 1) == 'o' then
      count = count + items.cancel_waiting(batch, at, string.sub(value, 2))
    end
    at = at + 1
  end
  if at ~= batch.sw then batches.set(batch, 'sw', at) end
  if at == batch.hi then items.drop_ranges(batch) end
  return count
end

-- Complete an ended batch once more for its parent, which has lost its outcome and asks for it again.
local function complete_again(batch, parent)
  if batch.p ~= parent or not batch.za or batch.wk > 0 then return end
  batches.set(batch, 'ge', batch.ge + 1)
  events.mark_waiting(parent)
  batches.publish_completion(batch)
end

-- open_batch: stores a batch with its first messages. False, and nothing is done, if its id is known or another batch
-- or message with the same open_dedup has not ended.
verbs.open_batch = function(wire, first)
  local id = wire[BATCH.id]
  local key = P .. 'b:' .. id
  local dedup = or_nil(wire[BATCH.open_dedup])
  local parent = or_nil(wire[BATCH.parent])
  if call('EXISTS', key) == 1 and parent then complete_again(batches.get(id), parent) end
  if call('EXISTS', key) == 1 or dedup and call('HEXISTS', P .. 'dk', dedup) == 1 then return false end
  local sequence = call('HINCRBY', META, 'batches', 1)
  local fields = {
    'w', wire[BATCH.workflow], 's', 'pending', 'd', wire[BATCH.execute], 'k', wire[BATCH.flow][LIMITS.key],
    'kf', cjson.encode(wire[BATCH.flow]), 'cf', cjson.encode(wire[BATCH.complete_flow]), 'lg', wire[BATCH.ledger],
    'kr', wire[BATCH.keep_results] and 1 or 0, 'fo', wire[BATCH.force] and 1 or 0, 'na', wire[BATCH.named] and 1 or 0,
    'dp', wire[BATCH.depth], 't', now, 'sq', sequence, 'ge', 1,
  }
  for _, field in ipairs(ZERO) do
    fields[#fields + 1] = field
    fields[#fields + 1] = 0
  end
  for field, value in pairs({
    cp = or_nil(wire[BATCH.complete]), tt = or_nil(wire[BATCH.ledger_ttl]), L = or_nil(wire[BATCH.label]),
    p = or_nil(wire[BATCH.parent]), ps = or_nil(wire[BATCH.parent_step]), hd = or_nil(wire[BATCH.headers]),
    of = or_nil(wire[BATCH.on_failure]), od = dedup, ro = or_nil(wire[BATCH.retry_of]),
    pr = wire[BATCH.priority] > 0 and wire[BATCH.priority] or nil,
    nu = or_nil(wire[BATCH.notify_url]),
    fb = or_nil(wire[BATCH.failure_budget]),
    cn = or_nil(wire[BATCH.canary]), cu = or_nil(wire[BATCH.approve_under]),
    ua = or_nil(wire[BATCH.canary]) and 1, wd = or_nil(wire[BATCH.canary]) and not wire[BATCH.after_walk] and 1 or nil,
  }) do
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
  call('HSET', key, unpack(fields))
  flows.apply_message_limits(wire[BATCH.flow])
  flows.add(wire[BATCH.flow][LIMITS.key], 'ob', 1)
  if dedup then call('HSET', P .. 'dk', dedup, id) end
  if or_nil(wire[BATCH.label]) then call('ZADD', P .. 'bl:' .. wire[BATCH.label], sequence, id) end
  call('SET', P .. 'p:' .. id, wire[BATCH.params])
  local origin = or_nil(wire[BATCH.retry_of])
  if origin and batches.get(origin) then call('ZADD', P .. 'rb:' .. origin, sequence, id) end
  call('ZADD', P .. 'bs', sequence, id)
  call('ZADD', P .. 'bo', sequence, id)
  call('ZADD', P .. 'bw:' .. wire[BATCH.workflow], sequence, id)
  call('SADD', P .. 'ws', wire[BATCH.ledger])
  for _, message in ipairs(first) do messages.publish(message) end
  if parent then
    call('SADD', P .. 'kidb:' .. parent, id)
    events.mark_waiting(parent)
  end
  return true
end

-- cancel_batch: leases nothing more of a batch; false if it has ended or is unknown. A small batch ends at once.
-- sweep_cancelled: cancels one slice of the waiting messages of batches that are being cancelled, and returns how many.
-- pause_batch: leases nothing more of a batch until resume_batch. Safe to repeat.
-- set_batch_priority: changes the priority of a batch. Safe to repeat.
-- approve_batch: releases the held messages of a batch with a canary.
verbs.cancel_batch = function(id)
  local begun = batches.begin_cancel(id)
  if begun then
    batches.cancel_waiting(batches.get(id), SWEEP_LIMIT_AT_CANCEL)
    batches.end_finished()
  end
  notify_stores()
  return begun
end

verbs.pause_batch = function(id) return batches.pause(id, 1) end

verbs.resume_batch = function(id) return batches.pause(id, 0) end

verbs.set_batch_priority = batches.set_priority

-- set_failure_budget: sets the failure budget of a batch, or removes it; it counts anew.
verbs.set_failure_budget = function(id, budget)
  local batch = batches.get(id)
  if not batches.accepts_messages(batch) then return false end
  if or_nil(budget) then batches.set(batch, 'fb', budget) else batches.clear(batch, 'fb') end
  batches.count_failures_anew(batch)
  return true
end

verbs.approve_batch = function(id) return batches.approve(id) end

verbs.sweep_cancelled = function()
  local count = 0
  for _, id in ipairs(call('SMEMBERS', P .. 'bc')) do
    local batch = batches.get(id)
    if batch then
      if batch.s == 'cancelling' then
        count = count + batches.cancel_waiting(batch, SWEEP_LIMIT - count)
      else
        count = count + batches.cancel_held_back(batch, SWEEP_LIMIT - count)
      end
      state.touched[id] = true
      batches.end_finished()
    end
    if count >= SWEEP_LIMIT then return SWEEP_LIMIT end
  end
  return count
end

-- batch: a batch. batches: the latest batches, newest first.
-- The same, for a settlement that answers if it was this batch that ended: its id or null.
function batches.end_finished_by_settlement(id)
  if not batches.end_finished()[id or ''] then return NULL end
  state.ended[id] = nil
  return id
end

function batches.row(batch, without)
  return row_of(BATCH_COLUMNS, {
    id = batch.id, name = batch.w, state = batch.s, pages = batch.pg, chunks = batch.ch, total = batch.to,
    working = batch.wk, worked_ms = string.format('%.17g', batch.wm), params = not without and call('GET', P .. 'p:' .. batch.id) or 'null',
    force = batch.fo == 1, label = batch.L, headers = not without and batch.hd, paused = batch.pz == 1,
    canary = batch.cn, needs_approval = batch.ua == 1,
    flow_key = batch.k, error = batch.e, completion_error = batch.ce, errors = error_groups(batch.id),
    notify_url = batch.nu, notification = batch.nt,
    created_at = batch.t, started_at = batch.st, ended_at = batch.za, named = batch.na == 1, retry_of = batch.ro,
    replaced_succeeded = batch.rps or 0, replaced_failed = batch.rpf or 0, replaced_cancelled = batch.rpc or 0,
    recovered = batch.rc or 0, priority = batch.pr or 0, failure_budget = batch.fb, stop_reason = batch.sr,
    eligible = batch.el, open = batch.op, succeeded = batch.su, failed = batch.fa, cancelled = batch.ca,
    already_processed = batch.ap, in_flight = batch.fl, duplicates = batch.du, left_out = batch.lo, retrying = batch.rt, parked = batch.pa,
  })
end

reads.batch = function(id)
  local batch = batches.get(id)
  return batch and batches.row(batch) or NULL
end

reads.batches = function(workflow, label, open_only, limit, params, before)
  workflow, label = or_nil(workflow), or_nil(label)
  local latest = '+inf'
  if or_nil(before) then
    local last = batches.get(before)
    if not last then return {} end
    latest = '(' .. last.sq
  end
  local key = P .. (label and 'bl:' .. label or workflow and 'bw:' .. workflow or open_only and 'bo' or 'bs')
  local rows, offset = {}, 0
  while #rows < limit do
    local ids = call('ZREVRANGEBYSCORE', key, latest, '-inf', 'LIMIT', offset, limit)
    if #ids == 0 then break end
    offset = offset + #ids
    for _, id in ipairs(ids) do
      local batch = batches.get(id)
      local fits = batch and not (open_only and batch.za) and (not workflow or batch.w == workflow)
      if fits and #rows < limit then rows[#rows + 1] = batches.row(batch, not params) end
    end
  end
  return rows
end
