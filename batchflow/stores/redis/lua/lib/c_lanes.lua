-- Lanes: what waits for one destination under one flow key for one batch (or for none). `group` is the id of the batch,
-- followed by HELD for what is held back until it has been walked, or ''. What is fresh is in one sorted set, by when it
-- is due, 0 for at once: then by id. A member is the id of a message, or a range of items of a batch that nobody has
-- claimed yet: `<id of the first one's run> \n <last number>`. What has started is in another, by when it is due.
-- What was lost so often that it is claimed alone is in `sus`, whatever its lane.
-- `rd:<destination>` holds for each lane that is not closed when its earliest is due, as `<flow key> \n <group>`; `lt`
-- when each lane that holds something was served last, and how far it has run ahead; `bq:<batch>` the lanes of a batch.
local HELD = '~'
each_call(function() lanes.ready, lanes.known = {}, {} end)

-- The group of a message; the end of a batch, which comes after all of it, belongs to none.
function lanes.group(id, message)
  local batch = message.b
  if not batch or string.find(id, '%.z%d*$') then return '' end
  return message.he and batch .. HELD or batch
end

function lanes.id(destination, key, group) return key .. '|' .. destination .. '|' .. group end

function lanes.fresh(destination, key, group) return P .. 'q:' .. lanes.id(destination, key, group) end

function lanes.started(destination, key, group) return P .. 's:' .. lanes.id(destination, key, group) end

function lanes.is_suspect(message) return message.l >= SUSPECT_LOSSES end

-- Whether nothing of a group is claimed: its batch is paused, cancelled or not yet walked.
function lanes.is_closed(group)
  if group == '' then return false end
  local held = string.sub(group, -1) == HELD
  local batch = batches.get(held and string.sub(group, 1, -2) or group)
  if not batch then return false end
  return batch.pz == 1 or batch.s == 'cancelling' or held and (batch.wd ~= 1 or batch.bk == 1)
end

function lanes.ready_by(destination, key, group, due)
  local name = lanes.id(destination, key, group)
  local known = lanes.ready[name]
  -- A new lane joins the end of the queue.
  if not known then call('HSETNX', P .. 'lt', name, string.format('%d 0', flows.turn())) end
  if not known or known > due then
    if not lanes.is_closed(group) then call('ZADD', P .. 'rd:' .. destination, 'LT', due, key .. '\n' .. group) end
    lanes.ready[name] = due
  end
  tell()
end

-- Remember a lane that belongs to a batch.
function lanes.note(destination, key, group)
  local name = lanes.id(destination, key, group)
  if group == '' or lanes.known[name] then return end
  lanes.known[name] = true
  local batch = string.sub(group, -1) == HELD and string.sub(group, 1, -2) or group
  call('SADD', P .. 'bq:' .. batch, destination .. '\n' .. key .. '\n' .. group)
end

-- Call `act` with each lane of a batch: destination, key, group.
function lanes.each(batch, act)
  for _, name in ipairs(call('SMEMBERS', P .. 'bq:' .. batch)) do
    act(string.match(name, '^(.*)\n(.*)\n(.*)$'))
  end
end

-- Nothing of a batch is claimed from here on.
function lanes.close(batch)
  lanes.each(batch, function(destination, key, group)
    call('ZREM', P .. 'rd:' .. destination, key .. '\n' .. group)
    lanes.ready[lanes.id(destination, key, group)] = nil
  end)
end

-- What is not closed for another reason is claimed again.
function lanes.open(batch)
  lanes.each(batch, lanes.recount)
  tell()
end

-- Where a message waits: the sorted set, and whether it is that of suspects.
function lanes.place_of(id, message)
  if lanes.is_suspect(message) then return P .. 'sus', true end
  local group = lanes.group(id, message)
  if message.f > 0 then return lanes.started(message.d, message.k, group) end
  return lanes.fresh(message.d, message.k, group)
end

-- Let a message wait until it is due.
function lanes.put(id, message, due)
  local place, alone = lanes.place_of(id, message)
  call('ZADD', place, due, id)
  if alone then return tell() end
  local group = lanes.group(id, message)
  lanes.note(message.d, message.k, group)
  lanes.ready_by(message.d, message.k, group, due)
end

-- It waits no more.
function lanes.drop(id, message)
  local place, alone = lanes.place_of(id, message)
  call('ZREM', place, id)
  if not alone then lanes.recount(message.d, message.k, lanes.group(id, message)) end
end

-- The batch, first and last number of a range; nil for a message.
function lanes.range(member)
  local cut = string.find(member, '\n', 1, true)
  if not cut then return nil end
  return string.sub(member, 1, cut - 12), tonumber(string.sub(member, cut - 9, cut - 1)), tonumber(string.sub(member, cut + 1))
end

function lanes.range_of(batch, first, last) return string.format('%s.r%09d\n%d', batch, first, last) end

function lanes.add_range(lane, batch, first, last)
  local member = lanes.range_of(batch, first, last)
  call('ZADD', lane, 0, member)
  call('ZADD', P .. 'r:' .. batch, first, member)
end

function lanes.drop_range(lane, batch, member)
  call('ZREM', lane, member)
  call('ZREM', P .. 'r:' .. batch, member)
end

-- Take up to `want` items out of a range, at least those in front that are not open any more: [number, item id], …
function lanes.cut(lane, member, want)
  buffer.flush()
  local id, first, last = lanes.range(member)
  local batch = batches.get(id)
  local found, at = {}, first
  if batches.takes(batch) then
    while at <= last and #found < want do
      local stop = math.min(last, at - at % BUCKET + BUCKET - 1, at + want - #found - 1)
      local numbers = {}
      for number = at, stop do numbers[#numbers + 1] = number end
      for place, value in ipairs(call('HMGET', batches.bucket(id, at), unpack(numbers))) do
        if value and string.sub(value, 1, 1) == 'o' then found[#found + 1] = { at + place - 1, string.sub(value, 2) } end
      end
      at = stop + 1
    end
  else
    at = last + 1
  end
  lanes.drop_range(lane, id, member)
  if at <= last then lanes.add_range(lane, id, at, last) end
  return found, id, batch
end

-- When the first of what is fresh in a lane is due; ranges that hold nothing any more are removed.
local function head(lane)
  buffer.flush()
  while true do
    local first = call('ZRANGE', lane, 0, 0, 'WITHSCORES')
    if #first == 0 then return nil end
    local member, due = first[1], tonumber(first[2])
    local id, number, last = lanes.range(member)
    if not id then return due end
    local batch = batches.get(id)
    local alive = batches.takes(batch)
    local value = alive and call('HGET', batches.bucket(id, number), number)
    if value and string.sub(value, 1, 1) == 'o' then return due end
    lanes.drop_range(lane, id, member)
    if alive and number < last then lanes.add_range(lane, id, number + 1, last) end
  end
end

-- Some of a lane were taken: find the earliest of those that are left.
function lanes.recount(destination, key, group)
  local due = head(lanes.fresh(destination, key, group))
  if due ~= 0 then
    local other = call('ZRANGE', lanes.started(destination, key, group), 0, 0, 'WITHSCORES')[2]
    if other and (not due or tonumber(other) < due) then due = tonumber(other) end
  end
  local name, member = lanes.id(destination, key, group), key .. '\n' .. group
  lanes.ready[name] = due
  if due and not lanes.is_closed(group) then
    call('ZADD', P .. 'rd:' .. destination, due, member)
  else
    call('ZREM', P .. 'rd:' .. destination, member)
    if not due then call('HDEL', P .. 'lt', name) end
  end
end

-- When lanes were served last, and how far each has run ahead then.
function lanes.served(names)
  local found = {}
  sliced(names, function(part, first)
    for place, text in ipairs(call('HMGET', P .. 'lt', unpack(part))) do
      local turn, ahead = string.match(text or '0 0', '^(%d+) (%d+)$')
      found[first + place - 1] = { tonumber(turn), tonumber(ahead) }
    end
  end)
  return found
end

function lanes.serve(name, turn, ahead) call('HSET', P .. 'lt', name, string.format('%d %d', turn, ahead)) end

-- How `want` claims are divided, as batchflow.core.flow.share does: what has started, what is fresh.
function lanes.share(want, started, fresh, ahead)
  local least = math.min(fresh, math.floor((ahead + want) / (STARTED_OF_FRESH + 1)))
  local of_started = math.min(started, want - least)
  return of_started, math.min(fresh, want - of_started)
end

function lanes.ahead(before, started, fresh)
  return math.max(0, math.min(STARTED_OF_FRESH, before + started - STARTED_OF_FRESH * fresh))
end
