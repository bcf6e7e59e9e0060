-- Settling claims: ending a message with everything that depends on it, or putting it back into its queue.
-- End a message. `by`: how, result, error, took, optionally the failures and losses of a dead letter, and `failed`: the
-- number of failed attempts, the reason to wait, and the failures for the error groups of its batch.
function settling.finish(id, message, by)
  settling.remove(id, message)
  local failed = by.failed
  if failed and #failed[3] > 0 then
    message.at = message.at + failed[1]
    if message.b then batches.add_failures(message, failed[3], true) end
  end
  messages.unindex(id, message)
  -- The outcome of a failure function is kept with its dead letter, that of a notification with its batch.
  local reports = message.p and tonumber(message.ps) <= FAILURE_STEP
  local how = by.how == 'dead' and reports and 'failed' or by.how
  if how == 'dead' then
    settling.make_dead_letter(id, message, by)
  elseif message.kp then
    settling.keep_run(id, RUN_STATE[how], by.result, by.error)
    call('ZADD', P .. 'ended', now, id)
  else
    buffer.drop(id)
  end
  if message.od and call('HGET', P .. 'dk', message.od) == id then call('HDEL', P .. 'dk', message.od) end
  local batch = message.b and batches.get(message.b)
  if batch and message.n >= 0 then
    items.finish(batch, message.n, message.i, how, by.result, by.error, by.took, message.at)
    if message.wt > 0 then batches.count_waiting(batch, message.wt, -1) end
    if batch.fb and (how == 'dead' or how == 'failed') then batches.enforce_failure_budget(batch) end
  else
    if batch then batches.finish_layer(batch, id, how, by.failed and or_nil(by.failed[4])) end
    notify_stores()
  end
  if reports and tonumber(message.ps) == NOTIFICATION_STEP then
    batches.end_notification(id, message, by)
  elseif reports then
    settling.end_failure_call(id, message, by)
  elseif message.p then
    call('SREM', P .. 'kids:' .. message.p, id)
    events.add_arrival(message.p, tonumber(message.ps), ARRIVES[how], by.result, by.error)
  end
  if message.ln then
    events.drop_waits(id)
    if how ~= 'dead' then events.drop_webhooks(id) end
    if how == 'cancelled' then settling.cancel_children(id) end
  end
  -- Messages of a batch are not posts.
  if how == 'cancelled' and not message.b then posts.end_cancelled(id) end
  if how == 'dead' then settling.call_failure_function(id, message, 1) end
end

-- Publish the failure message of a dead letter, for the call of this number. False if it has no destination for one.
function settling.call_failure_function(id, message, number)
  local destination = message.of
  if message.b and message.n >= 0 then destination = batches.get(message.b).of end
  if not destination then return false end
  local name = id .. '.x' .. message.f .. (number > 1 and '.' .. number or '')
  if call('EXISTS', P .. 'm:' .. name) == 0 then
    messages.add({
      id = name, d = destination, flow = flows.of_destination(destination), y = cjson.encode(id), u = 0, p = id, ps = FAILURE_STEP,
    })
  end
  call('HSET', P .. 'm:' .. id, 'fc', cjson.encode({ name, number, 'in_progress', now, NULL, NULL }))
  return true
end

-- Note the outcome of the failure function of a dead letter: only the latest call counts, and only while it is one.
function settling.end_failure_call(id, message, by)
  local key = P .. 'm:' .. message.p
  call('SREM', P .. 'kids:' .. message.p, id)
  local before = call('HMGET', key, 'z', 'fc')
  local about = before[1] == 'dead' and before[2] and cjson.decode(before[2])
  if not about or about[1] ~= id then return end
  local state, error = by.how == 'done' and 'succeeded' or 'failed', by.error
  if state == 'failed' and not error then error = "its run '" .. id .. "' was cancelled" end
  call('HSET', key, 'fc', cjson.encode({ id, about[2], state, now, or_null(by.result), or_null(error) }))
end

-- Remove a message from its worker or from its queue.
function settling.remove(id, message)
  if message.o then
    buffer.add('HDEL', workers.claims_key(message.o), id)
    flows.release(message.k, 1, id)
    if message.pa then flows.release(message.pa, 1, id) end
    workers.end_alone(id, message)
  else
    flows.add_of(message, 'w', -1)
    lanes.dequeue(id, message)
  end
end

function settling.keep_run(id, how, result, error)
  local key = P .. 'm:' .. id
  call('HDEL', key, 'o', 'e', 'ln')
  call('HSET', key, 'z', how, 'za', now)
  if result then call('HSET', key, 'v', result) end
  if error then call('HSET', key, 'e', error) end
end

function settling.make_dead_letter(id, message, by)
  settling.keep_run(id, 'dead', nil, by.error or '')
  call('HSET', P .. 'm:' .. id, 'x', by.failures or message.x + 1, 'l', by.losses or message.l, 'at', message.at,
    'sc', by.failed[5], 'fp', by.failed[6])
  call('HDEL', P .. 'm:' .. id, 'fc')
  messages.log_attempts(id, by.failed[3], by.took, by.failed[4])
  flows.add_of(message, 'dl', 1)
  call('ZADD', P .. 'dead', now, id)
  call('ZADD', P .. 'runs', message.t, id)
  if message.b then
    call('ZADD', P .. 'bd:' .. message.b, now, id)
    call('HSET', P .. 'm:' .. id, 'b', message.b, 'n', message.n, 'd', message.d, 'k', message.k)
  end
end

-- Cancel the children of a cancelled run.
function settling.cancel_children(parent)
  for _, id in ipairs(call('SMEMBERS', P .. 'kids:' .. parent)) do
    local message = messages.load(id)
    if message and message.o then
      messages.cancel_leased(id, message)
    elseif message then
      settling.finish(id, message, { how = 'cancelled' })
    end
  end
  for _, id in ipairs(call('SMEMBERS', P .. 'kidb:' .. parent)) do
    -- `sweep_cancelled` cancels the rest of a very large batch later.
    if batches.begin_cancel(id) then batches.cancel_waiting(batches.get(id), SWEEP_LIMIT) end
  end
end

-- settle: ends a claim that is still held with this fence, with its steps and effects; else changes nothing and answers
-- that it is stale. The answer: [stale, the batch that ended with it or null], and the change of the key's circuit breaker
-- if it has opened or closed.

-- Put a message back into its queue.
local function stay(id, message, how, error, due, outcome, list, failed, took)
  if how == 'released' or due <= now then due = 0 end
  if how == 'suspended' and message.ln and call('EXISTS', P .. 'a:' .. id) == 1 then due = 0 end
  local failures = (outcome and 0 or message.x) + (how == 'retry' and 1 or 0)
  local fails = failed[2] > 0
  if fails then messages.log_attempts(id, failed[3], took, failed[4]) end
  messages.release(id, message, due, failures, outcome and 0 or message.l, error, fails and failed)
  if fails and message.b and #failed[3] > 0 then
    if message.n >= 0 then items.fail(message, failed[3][#failed[3]][3]) end
    batches.add_failures(message, failed[3], false)
  end
  if how == 'parked' then
    local flow = flows.get(message.k)
    flows.set(flow, 'pk', math.max(flow.pk, due))
  end
  steps.apply_effects(id, list)
end

-- Count an outcome for the flow keys of a message; the limits of a batch are those of its own key.
local function count_outcome(message, id, failures, batch)
  local change = flows.count_outcome(message.k, id, failures, not message.pa and batch)
  return message.pa and flows.count_outcome(message.pa, id, failures, batch) or change
end

-- The number of failed attempts of a settlement, 0 for a success; nil if it says nothing about either.
local function outcome_of(how, failed)
  if how == 'done' then return 0 end
  if how == 'retry' or how == 'dead' or how == 'failed' then return math.max(1, failed[1]) end
  if how == 'suspended' and failed[1] > 0 then return failed[1] end
end

verbs.settle = function(id, fence, how, result, error, due, rows, list, took, failed)
  if how == 'done' and #list == 0 then
    local item = messages.held_item(id, fence)
    if item then
      settling.remove(id, item)
      buffer.drop(id)
      items.finish(batches.get(item.b), item.n, item.i, how, or_nil(result), nil, took, item.at)
      local change = count_outcome(item, id, 0)
      return { false, batches.end_finished_by_settlement(item.b), change }
    end
  end
  local message = messages.held(id, fence)
  if not message then return { true, NULL } end
  local cancelled = messages.is_cancelled(message)
  if cancelled and (STAYS[how] or how == 'dead') then how = 'cancelled' end
  local outcome = false
  if #rows > 0 and not cancelled and (STAYS[how] or how == 'dead') then outcome = steps.put(id, rows) end
  if STAYS[how] then
    stay(id, message, how, or_nil(error), due, outcome, list, failed, took)
  else
    local fails = how ~= 'cancelled' and failed
    settling.finish(id, message, { how = how, result = or_nil(result), error = or_nil(error), took = took, failed = fails })
    if how ~= 'cancelled' then steps.apply_effects(id, list) end
  end
  local failures = outcome_of(how, failed)
  local item_of = message.n >= 0 and message.b and batches.get(message.b)
  local change = failures and count_outcome(message, id, failures, item_of)
  return { false, batches.end_finished_by_settlement(message.b), change or nil }
end
