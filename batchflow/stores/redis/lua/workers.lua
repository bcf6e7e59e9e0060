-- Workers: their leases, the claims that they hold and the destinations that they serve.

-- The key of the hash of a worker's messages, composed once in a call.
local holders
on_each_call(function() holders = {} end)
function workers.claims_key(worker)
  local name = holders[worker] or P .. 'w:' .. worker
  holders[worker] = name
  return name
end

-- The message that a worker has claimed alone, as long as it has recorded nothing.
function workers.suspect_of(worker)
  local id = call('HGET', P .. 'wa', worker)
  local message = id and messages.load(id)
  if message and message.o == worker and lanes.is_suspect(message) then return id end
  if id then call('HDEL', P .. 'wa', worker) end
  return nil
end

-- The claim of a message has ended: if it was claimed alone, its worker may claim others again.
function workers.end_alone(id, message)
  -- Only after as many claims can it have been claimed alone.
  if (message.f or 0) > SUSPECT_LOSSES and call('HGET', P .. 'wa', message.o) == id then call('HDEL', P .. 'wa', message.o) end
end

-- True if any worker has this list of destinations.
function workers.is_list_used(list)
  for _, one in pairs(to_table(call('HGETALL', P .. 'wl'))) do
    if one == list then return true end
  end
  return false
end

-- Forget a worker's list of destinations, which is deleted with its last worker.
function workers.drop_list(worker)
  local list = call('HGET', P .. 'wl', worker)
  if not list then return end
  call('HDEL', P .. 'wl', worker)
  if not workers.is_list_used(list) then call('DEL', P .. 'ds:' .. list) end
end

-- Reclaim all messages of a worker and forget it. If it holds a message claimed alone, only that one counts as lost.
function workers.reclaim_all(worker, lost)
  local ids = call('HKEYS', P .. 'w:' .. worker)
  table.sort(ids)
  local count, alone = 0, lost and workers.suspect_of(worker)
  for _, id in ipairs(ids) do
    local message = messages.load(id)
    if message and message.o == worker then
      messages.reclaim(id, message, lost and (not alone or id == alone))
      count = count + 1
    end
  end
  call('ZREM', P .. 'workers', worker)
  call('HDEL', P .. 'wi', worker)
  call('HDEL', P .. 'wa', worker)
  call('DEL', P .. 'w:' .. worker, P .. 'wc:' .. worker)
  workers.drop_list(worker)
  return count
end

-- register: adds a worker until its lease ends. Safe to repeat.
verbs.register = function(worker, lease, concurrency, list, destinations)
  local known = cjson.decode(call('HGET', P .. 'wi', worker) or cjson.encode({ now, now, concurrency, 0 }))
  call('ZADD', P .. 'workers', now + lease, worker)
  call('HSET', P .. 'wi', worker, cjson.encode({ known[1], now, concurrency, known[4] }))
  if or_nil(list) and call('HGET', P .. 'wl', worker) ~= list then workers.serve(worker, list, destinations) end
end

-- renew: extends a worker's lease; false if it is not registered any more. Hung claims (id, fence) are reclaimed as
-- lost at once; claims that it does not hold with that fence are left alone.
verbs.renew = function(worker, lease, hung, hanging)
  if not call('ZSCORE', P .. 'workers', worker) then return false end
  -- A full server accepts any write after one that frees memory; a renewal needs no more memory than before.
  call('HDEL', P .. 'wi', '')
  for _, one in ipairs(hung) do
    local message = messages.held(one[1], one[2])
    if message and message.o == worker then messages.reclaim(one[1], message, true) end
  end
  call('ZADD', P .. 'workers', now + lease, worker)
  local about = cjson.decode(call('HGET', P .. 'wi', worker) or '[0,0,0,0]')
  call('HSET', P .. 'wi', worker, cjson.encode({ about[1], now, about[3], hanging }))
  return true
end

-- deregister: forgets a worker; the messages that it still holds are due at once, without a loss. Safe to repeat.
verbs.deregister = function(worker)
  if call('ZSCORE', P .. 'workers', worker) then workers.reclaim_all(worker, false) end
end

-- expire: reclaims the messages of workers whose lease has ended, as lost, and returns how many.
verbs.expire = function()
  local count = 0
  for _, worker in ipairs(call('ZRANGEBYSCORE', P .. 'workers', '-inf', now)) do
    count = count + workers.reclaim_all(worker, true)
  end
  return count
end

-- workers: the workers after `after` by name, with their messages counted by destination, as far as a bounded look
-- goes: [rows, the name to continue after or null].
local LOOK = 10000

-- Count the messages that a worker holds, by destination and in all.
local function held_by(worker)
  local found, count = {}, 0
  for _, id in ipairs(call('HKEYS', P .. 'w:' .. worker)) do
    local destination, item = unpack(call('HMGET', P .. 'm:' .. id, 'd', 'i'))
    local batch = not destination and item and batches.get(string.sub(id, 1, -12))
    destination = destination or batch and batch.d
    if destination then found[destination] = (found[destination] or 0) + 1 end
    count = count + 1
  end
  return found, count
end

reads.workers = function(after)
  local known = to_table(call('ZRANGE', P .. 'workers', 0, -1, 'WITHSCORES'))
  local names, rows, looked = {}, {}, 0
  for name in pairs(known) do
    if name > after then names[#names + 1] = name end
  end
  table.sort(names)
  for place, name in ipairs(names) do
    local since, seen, concurrency, hanging = unpack(cjson.decode(call('HGET', P .. 'wi', name) or '[0,0,0,0]'))
    local holds, count = held_by(name)
    local ends = tonumber(known[name])
    local list = call('HGET', P .. 'wl', name)
    local serves = list and call('SMEMBERS', P .. 'ds:' .. list) or {}
    rows[place] = { name, since, seen, number_text(ends), concurrency, hanging, holds, ends <= now, serves }
    looked = looked + count
    if looked >= LOOK and place < #names then return { rows, name } end
  end
  return { rows, NULL }
end

-- unserved: the destinations of due messages that no live worker serves, with the number of these and their batch.
local MEMBERS = 1000

-- The number of due messages of a lane; a member may be a range of items.
local function count_due(destination, key, group)
  local count = call('ZCOUNT', lanes.started(destination, key, group), '-inf', now)
  local found = call('ZRANGEBYSCORE', lanes.fresh(destination, key, group), '-inf', now, 'LIMIT', 0, MEMBERS)
  for _, member in ipairs(found) do
    local _, first, last = lanes.parse_range(member)
    count = count + (first and last - first + 1 or 1)
  end
  if #found == MEMBERS then
    count = count + call('ZCOUNT', lanes.fresh(destination, key, group), '-inf', now) - MEMBERS
  end
  return count
end

-- The number of due messages of the lanes that are nested under a key, as far as a bounded look goes.
local function count_nested(destination, parent)
  local count = 0
  for _, member in ipairs(call('ZRANGE', nested.ready_in(parent, destination), 0, MEMBERS - 1)) do
    local key, group = lanes.parse_member(member)
    local flow = flows.get(key)
    if flow and not flows.is_paused(flow) and flow.pk <= now then count = count + count_due(destination, key, group) end
  end
  return count
end

-- The score of a lane that its key delays by its rate is later than that of its due messages, which a worker would start
-- all the same: all lanes are looked at, those that may start first.
local function unserved_row(destination)
  local count, batch = 0, nil
  for _, member in ipairs(call('ZRANGE', P .. 'rd:' .. destination, 0, MEMBERS - 1)) do
    local key, group = lanes.parse_member(member)
    local flow = flows.get(key)
    if flow and not flows.is_paused(flow) and flow.pk <= now then
      local due = group == nested.MARK and count_nested(destination, key) or count_due(destination, key, group)
      local id = lanes.batch_of(group)
      if due > 0 then batch = (batch == nil or batch == id) and id end
      count = count + due
    end
  end
  return { destination, math.min(count, MOST_COUNTED), batch and batch ~= '' and batch or NULL }
end

reads.unserved = function(limit)
  local served, rows = {}, {}
  for _, worker in ipairs(call('ZRANGEBYSCORE', P .. 'workers', '(' .. NOW, '+inf')) do
    local list = call('HGET', P .. 'wl', worker)
    if not list then return rows end
    served[#served + 1] = P .. 'ds:' .. list
  end
  local found = call('ZRANGE', P .. 'rds', 0, MEMBERS - 1)
  table.sort(found)
  for _, destination in ipairs(found) do
    local is_served = false
    for _, list in ipairs(served) do is_served = is_served or call('SMISMEMBER', list, destination)[1] == 1 end
    local row = not is_served and #rows < limit and unserved_row(destination)
    if row and row[2] > 0 then rows[#rows + 1] = row end
  end
  return rows
end
