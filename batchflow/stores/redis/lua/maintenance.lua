-- Retention, and the repair of what a stopped script has left half done.
-- prune: removes one slice of the ended runs, dead letters and batches older than the retention, of the logs of posts and
-- the workflow runs that ended before, and of the expired marks and deduplication keys. Returns how many rows were removed. To be called until that
-- is 0.
local function prune_runs(index, before, limit)
  local ids = call('ZRANGEBYSCORE', P .. index, '-inf', '(' .. string.format('%.0f', before), 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do
    messages.remove_ended(id)
    -- Also if its hash has gone.
    call('ZREM', P .. index, id)
    call('ZREM', P .. 'runs', id)
  end
  return #ids
end

local function prune_marks(limit)
  local count = 0
  for _, workflow in ipairs(call('SMEMBERS', P .. 'ws')) do
    local key = P .. 'l:' .. workflow
    local gone = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, limit - count)
    in_slices(gone, function(part) call('ZREM', key, unpack(part)) end)
    count = count + #gone
    if count >= limit then break end
  end
  return count
end

-- Items are removed bucket by bucket, from the highest down, so that `hi` is where to continue.
local function prune_batch(batch, limit)
  local count = 0
  while batch.hi > 0 and count < limit do
    local at = batch.hi - 1
    count = count + call('HLEN', items.bucket(batch.id, at))
    call('DEL', items.bucket(batch.id, at), items.results(batch.id, at), items.data(batch.id, at),
      nested.keys_of(batch.id, at))
    batches.set(batch, 'hi', at - at % BUCKET)
  end
  if batch.hi > 0 then return count end
  local id = batch.id
  batches.cache[id] = nil
  call('DEL', P .. 'b:' .. id, P .. 'p:' .. id, P .. 'bm:' .. id, P .. 'bd:' .. id, P .. 'r:' .. id, P .. 'er:' .. id)
  call('DEL', P .. 'rb:' .. id, P .. 'ri:' .. id)
  if batch.ro then call('ZREM', P .. 'rb:' .. batch.ro, id) end
  for _, index in ipairs({ 'bs', 'be', 'bo', 'bw:' .. batch.w, batch.L and 'bl:' .. batch.L or 'bs' }) do call('ZREM', P .. index, id) end
  return count + 1
end

verbs.prune = function(retention, limit)
  local before = now - retention
  local count = prune_marks(limit) + prune_runs('ended', before, limit) + prune_runs('dead', before, limit)
    + posts.prune(before, limit) + posts.forget_dedup(limit) + wire_runs.prune(before, limit)
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'be', '-inf', '(' .. string.format('%.0f', before), 'LIMIT', 0, 100)) do
    local batch = batches.get(id)
    if batch and batch.wk == 0 then return count + prune_batch(batch, limit) end
  end
  return count
end

-- reconcile: repairs what a script that was stopped halfway has left, a slice at a time. Safe to repeat.
-- Slots in use are counted again from the messages that workers hold. With `deep`, open runs of `destinations` and open
-- batches are examined: a message whose worker is unknown or does not hold it, a message in no queue, and an unclaimed
-- item in no range are due again. The answer: [how much was repaired, where to continue or null].
local KEYS_AT_ONCE, RUNS_AT_ONCE, BUCKETS_AT_ONCE = 1000, 500, 64

-- Count the slots in use of each key. Removes messages from a worker's hash that the worker does not hold.
local function slots_in_use()
  local places, count = {}, 0
  for _, worker in ipairs(call('ZRANGE', P .. 'workers', 0, -1)) do
    for _, id in ipairs(call('HKEYS', workers.claims_key(worker))) do
      local fine, message = try(messages.load, id)
      if fine and message and message.o == worker then
        places[message.k] = (places[message.k] or 0) + 1
        if message.pa then places[message.pa] = (places[message.pa] or 0) + 1 end
      elseif fine then
        call('HDEL', workers.claims_key(worker), id)
        count = count + 1
      end
    end
  end
  return places, count
end

local function recount_slots(at)
  local places, count = slots_in_use()
  local keys = call('ZRANGE', P .. 'flows', at, at + KEYS_AT_ONCE - 1)
  for _, key in ipairs(keys) do
    local flow, held = flows.get(key), places[key] or 0
    if flow and flow.fu == 1 then flows.freed[key] = flows.freed[key] or 'nested' end
    if flow and flow.n ~= held then
      flows.set(flow, 'n', held)
      count = count + 1
      notify_stores()
    end
    local trial = flow and flows.trial(flow)
    local message = trial and messages.load(trial)
    if trial and not (message and message.o) then
      flows.end_trial(flow)
      count = count + 1
    end
  end
  return count, #keys == KEYS_AT_ONCE and at + KEYS_AT_ONCE
end

-- Put a message that nobody holds and that is in no queue back into its queue. Its slot is not freed: slots were
-- counted.
local function repair_message(id)
  local fine, message = try(messages.load, id)
  if not fine or not message then return 0 end
  if message.o then
    if call('HEXISTS', workers.claims_key(message.o), id) == 1 and call('ZSCORE', P .. 'workers', message.o) then return 0 end
    call('HSET', P .. 'm:' .. id, 'u', 0)
    call('HDEL', P .. 'm:' .. id, 'o')
    call('HDEL', workers.claims_key(message.o), id)
    message.u = 0
  end
  local place, alone = lanes.queue_of(id, message)
  local due = call('ZSCORE', place, id)
  if not due then
    flows.add_of(message, 'w', 1)
    lanes.enqueue(id, message, tonumber(message.u or 0))
    return 1
  end
  local group = lanes.group(id, message)
  local parent = nested.parent(group)
  local held_back = parent and call('ZSCORE', P .. 'hb', lanes.full_name(message.d, message.k, group))
  local from = parent and nested.ready_in(parent, message.d) or P .. 'rd:' .. message.d
  local ready = alone or lanes.is_closed(group) or held_back or call('ZSCORE', from, message.k .. '\n' .. group)
  if ready then return message.o and 1 or 0 end
  lanes.mark_ready(message.d, message.k, group, tonumber(due))
  return 1
end

local function ranges_of(batch)
  local found = {}
  for _, member in ipairs(call('ZRANGE', P .. 'r:' .. batch, 0, -1)) do
    local _, first, last = lanes.parse_range(member)
    found[#found + 1] = { first, last }
  end
  return found
end

local function is_within(ranges, number)
  for _, range in ipairs(ranges) do
    if range[1] <= number and number <= range[2] then return true end
  end
  return false
end

-- Repair some buckets of a batch's items, from the one of `at` on. Returns how many were repaired, and where to
-- continue.
local function repair_items(batch, at)
  local count, ranges = 0, ranges_of(batch.id)
  local stop = math.min(batch.hi, at + BUCKET * BUCKETS_AT_ONCE)
  for bucket = at, stop - 1, BUCKET do
    for number, value in pairs(to_table(call('HGETALL', items.bucket(batch.id, bucket)))) do
      number = tonumber(number)
      local id = string.format('%s.r%09d', batch.id, number)
      local open = string.sub(value, 1, 1) == 'o'
      if open and call('EXISTS', P .. 'm:' .. id) == 1 then
        count = count + repair_message(id)
      elseif open and not is_within(ranges, number) then
        local key = nested.key_of(batch, number)
        local group = nested.group_of(batch, key)
        lanes.add_range(lanes.fresh(batch.d, key, group), batch.id, number, number)
        flows.add_of({ k = key, pa = key ~= batch.k and batch.k }, 'w', 1)
        lanes.add_to_batch(batch.d, key, group)
        lanes.mark_ready(batch.d, key, group, 0)
        count = count + 1
      end
    end
  end
  return count, stop < batch.hi and stop
end

local function repair_runs(destination, at)
  lanes.mark_changed(destination)
  local ids = call('ZRANGE', P .. 'od:' .. destination, at, at + RUNS_AT_ONCE - 1)
  local count = 0
  for _, id in ipairs(ids) do
    count = count + repair_message(id)
    for _, child in ipairs(call('SMEMBERS', P .. 'kids:' .. id)) do count = count + repair_message(child) end
  end
  return count, #ids == RUNS_AT_ONCE and at + RUNS_AT_ONCE
end

local function repair_batch(id, at)
  local batch, count = batches.get(id), 0
  if not batch or batch.za or batch.s == 'cancelling' then return 0, false end
  if at == 0 then
    for _, message in ipairs(call('SMEMBERS', P .. 'bm:' .. id)) do count = count + repair_message(message) end
  end
  local found, more = repair_items(batch, at)
  return count + found, more
end

-- `cursor`: [part, index within it, where to continue]; the parts are flow keys, destinations, batches.
verbs.reconcile = function(destinations, deep, cursor)
  local part, index, at = unpack(or_nil(cursor) or { 1, 1, 0 })
  local count, more
  if part == 1 then
    count, more = recount_slots(at)
    if more then return { count, { 1, 1, more } } end
    return { count, deep and { 2, 1, 0 } or NULL }
  elseif part == 2 then
    if not destinations[index] then return { 0, { 3, 1, 0 } } end
    count, more = repair_runs(destinations[index], at)
  else
    local id = call('ZRANGE', P .. 'bo', index - 1, index - 1)[1]
    if not id then return { 0, NULL } end
    count, more = repair_batch(id, at)
  end
  return { count, more and { part, index, more } or { part, index + 1, 0 } }
end
