-- Lanes: what waits for one destination under one flow key for one batch (or for none). `group` is the id of the batch,
-- followed by HELD for what is held back until it has been walked, or ''. What is fresh is in one sorted set, by when it
-- is due, 0 for at once: then by id. A member is the id of a message, or a range of items of a batch that nobody has
-- claimed yet: `<id of the first one's run> \n <last number>`. What has started is in another, by when it is due.
-- What was lost so often that it is claimed alone is in `sus`, whatever its lane.
-- `rd:<destination>` holds each lane that is not closed, as `<flow key> \n <group>`: one from which something may start
-- now by the turn of its key, counted from READY and so below 0; any other by when it may. What its time makes ready, and
-- turns that are others by now, a claim puts right as it meets them: those keep their order, in fractions of the turn,
-- before lanes that were served in it. `rds` holds destinations by the first of their `rd`.
-- `hb` holds lanes that their key once held back, by its rate, a pause or parked, as `<flow key> \n <destination> \n
-- <group>`, all at 0, so that those of a key are found when its limits change. `lt` says when each lane that holds
-- something was served last, and how far it has run ahead; `bq:<batch>` the lanes of a batch.
-- Between READY and half of it a score is exact to a 1024th.
local HELD, READY, STEPS, SERVED = '~', -2 ^ 43, 1024, 0.75
on_each_call(function() lanes.ready, lanes.added_to_batch, lanes.changed, lanes.moved = {}, {}, {}, 0 end)

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

-- The first of a destination's lanes may be another one; `lowered`: it is not later than this, and what it was.
function lanes.mark_changed(destination, lowered)
  local known = lanes.changed[destination]
  if not lowered then
    lanes.changed[destination] = true
  elseif known ~= true and (not known or lowered < known) then
    lanes.changed[destination] = lowered
  end
end

function lanes.flush()
  for destination, lowered in pairs(lanes.changed) do
    local first = lowered
    if lowered == true then first = call('ZRANGE', P .. 'rd:' .. destination, 0, 0, 'WITHSCORES')[2] end
    if not first then
      call('ZREM', P .. 'rds', destination)
    elseif lowered == true then
      call('ZADD', P .. 'rds', first, destination)
    else
      call('ZADD', P .. 'rds', 'LT', first, destination)
    end
  end
  lanes.changed = {}
end

-- Where a lane stands in `rd` of which something is due then, and whether its key holds that back.
function lanes.score_of(key, due)
  local flow = flows.get_or_make(key)
  local opens = flows.opens_at(flow)
  if opens > now and opens > due then return opens, true end
  if due > now then return due, false end
  return READY + flow.tu, false
end

-- Whether a lane with this score stands where it belongs by now.
function lanes.is_in_place(score, stand) return score < 0 and math.floor(score) == stand end

function lanes.full_name(destination, key, group) return key .. '\n' .. destination .. '\n' .. group end

-- Have a lane stand where it belongs, or there only if that is earlier; whether its key holds it back.
local function place_lane(destination, key, group, due, earlier)
  local score, held = lanes.score_of(key, due)
  if score < 0 then score = score + SERVED end
  -- First, so that one that is held back is found by its key wherever this breaks off.
  if held then call('ZADD', P .. 'hb', 0, lanes.full_name(destination, key, group)) end
  if earlier then
    call('ZADD', P .. 'rd:' .. destination, 'LT', score, key .. '\n' .. group)
    lanes.mark_changed(destination, score)
  else
    call('ZADD', P .. 'rd:' .. destination, score, key .. '\n' .. group)
    lanes.mark_changed(destination)
  end
  return held
end

-- Lanes of a destination, of each of which something is due by now, stand where they belong.
function lanes.place_again(destination, members)
  local scores, names = {}, {}
  for _, member in ipairs(members) do
    local key, group = lanes.parse_member(member)
    local score, held = lanes.score_of(key, now)
    if score < 0 then
      lanes.moved = math.min(lanes.moved + 1, STEPS / 2)
      score = score + lanes.moved / STEPS
    end
    scores[#scores + 1] = score
    scores[#scores + 1] = member
    if held then
      names[#names + 1] = 0
      names[#names + 1] = lanes.full_name(destination, key, group)
    end
  end
  if #scores == 0 then return end
  in_slices(names, function(part) call('ZADD', P .. 'hb', unpack(part)) end)
  in_slices(scores, function(part) call('ZADD', P .. 'rd:' .. destination, unpack(part)) end)
  lanes.mark_changed(destination)
end

-- The flow key and the group of a member of `rd`.
function lanes.parse_member(member)
  local cut = string.find(member, '\n', 1, true)
  return string.sub(member, 1, cut - 1), string.sub(member, cut + 1)
end

local function release(names)
  local gone = {}
  for _, name in ipairs(names) do
    local key, destination, group = string.match(name, '^(.*)\n(.*)\n(.*)$')
    if not lanes.recount(destination, key, group) then gone[#gone + 1] = name end
  end
  in_slices(gone, function(part) call('ZREM', P .. 'hb', unpack(part)) end)
end

-- What a key holds back is looked at anew, since its limits are others.
function lanes.place_held_back(key)
  release(call('ZRANGEBYLEX', P .. 'hb', '[' .. key .. '\n', '(' .. key .. '\11'))
end

-- What any key holds back is: the clock was set back, and starts that lie far ahead are not believed.
function lanes.place_all_held_back() release(call('ZRANGE', P .. 'hb', 0, -1)) end

function lanes.mark_ready(destination, key, group, due)
  local name = lanes.id(destination, key, group)
  local known = lanes.ready[name]
  -- A new lane joins the end of the queue.
  if not known then call('HSETNX', P .. 'lt', name, string.format('%d 0', flows.latest_turn())) end
  if not known or known > due then
    if not lanes.is_closed(group) then place_lane(destination, key, group, due, true) end
    lanes.ready[name] = due
  end
  notify_stores()
end

-- Remember a lane that belongs to a batch.
function lanes.add_to_batch(destination, key, group)
  local name = lanes.id(destination, key, group)
  if group == '' or lanes.added_to_batch[name] then return end
  lanes.added_to_batch[name] = true
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
    lanes.mark_changed(destination)
    lanes.ready[lanes.id(destination, key, group)] = nil
  end)
end

-- What is not closed for another reason is claimed again.
function lanes.open(batch)
  lanes.each(batch, lanes.recount)
  notify_stores()
end

-- Where a message waits: the sorted set, and whether it is that of suspects.
function lanes.queue_of(id, message)
  if lanes.is_suspect(message) then return P .. 'sus', true end
  local group = lanes.group(id, message)
  if message.f > 0 then return lanes.started(message.d, message.k, group) end
  return lanes.fresh(message.d, message.k, group)
end

-- Let a message wait until it is due.
function lanes.enqueue(id, message, due)
  local place, alone = lanes.queue_of(id, message)
  call('ZADD', place, due, id)
  if alone then return notify_stores() end
  local group = lanes.group(id, message)
  lanes.add_to_batch(message.d, message.k, group)
  lanes.mark_ready(message.d, message.k, group, due)
end

-- It waits no more.
function lanes.dequeue(id, message)
  local place, alone = lanes.queue_of(id, message)
  call('ZREM', place, id)
  if not alone then lanes.recount(message.d, message.k, lanes.group(id, message)) end
end

-- The batch, first and last number of a range; nil for a message.
function lanes.parse_range(member)
  local cut = string.find(member, '\n', 1, true)
  if not cut then return nil end
  return string.sub(member, 1, cut - 12), tonumber(string.sub(member, cut - 9, cut - 1)), tonumber(string.sub(member, cut + 1))
end

function lanes.format_range(batch, first, last) return string.format('%s.r%09d\n%d', batch, first, last) end

function lanes.add_range(lane, batch, first, last)
  local member = lanes.format_range(batch, first, last)
  call('ZADD', lane, 0, member)
  call('ZADD', P .. 'r:' .. batch, first, member)
end

function lanes.drop_range(lane, batch, member)
  call('ZREM', lane, member)
  call('ZREM', P .. 'r:' .. batch, member)
end

-- Take up to `want` items out of a range, at least those in front that are not open any more: [number, item id], …
function lanes.take_items(lane, member, want)
  buffer.flush()
  local id, first, last = lanes.parse_range(member)
  local batch = batches.get(id)
  local found, at = {}, first
  if batches.accepts_messages(batch) then
    while at <= last and #found < want do
      local stop = math.min(last, at - at % BUCKET + BUCKET - 1, at + want - #found - 1)
      local numbers = {}
      for number = at, stop do numbers[#numbers + 1] = number end
      for place, value in ipairs(call('HMGET', items.bucket(id, at), unpack(numbers))) do
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
    local id, number, last = lanes.parse_range(member)
    if not id then return due end
    local batch = batches.get(id)
    local alive = batches.accepts_messages(batch)
    local value = alive and call('HGET', items.bucket(id, number), number)
    if value and string.sub(value, 1, 1) == 'o' then return due end
    lanes.drop_range(lane, id, member)
    if alive and number < last then lanes.add_range(lane, id, number + 1, last) end
  end
end

-- When the first of a lane is due; nil where nothing waits there.
function lanes.first_due(destination, key, group)
  local due = head(lanes.fresh(destination, key, group))
  if due ~= 0 then
    local other = call('ZRANGE', lanes.started(destination, key, group), 0, 0, 'WITHSCORES')[2]
    if other and (not due or tonumber(other) < due) then due = tonumber(other) end
  end
  return due
end

-- Some of a lane were taken: find the earliest of those that are left. Whether its key holds it back.
function lanes.recount(destination, key, group)
  local due = lanes.first_due(destination, key, group)
  local name = lanes.id(destination, key, group)
  lanes.ready[name] = due
  if due and not lanes.is_closed(group) then return place_lane(destination, key, group, due, false) end
  call('ZREM', P .. 'rd:' .. destination, key .. '\n' .. group)
  lanes.mark_changed(destination)
  if due then return false end
  call('HDEL', P .. 'lt', name)
  local flow = flows.get(key)
  if not flow or flows.may_hold_back(flow) then call('ZREM', P .. 'hb', lanes.full_name(destination, key, group)) end
  return false
end

-- When lanes were served last, and how far each has run ahead then.
function lanes.last_served(names)
  local found = {}
  in_slices(names, function(part, first)
    for place, text in ipairs(call('HMGET', P .. 'lt', unpack(part))) do
      local turn, ahead = string.match(text or '0 0', '^(%d+) (%d+)$')
      found[first + place - 1] = { tonumber(turn), tonumber(ahead) }
    end
  end)
  return found
end

function lanes.set_served(name, turn, ahead) call('HSET', P .. 'lt', name, string.format('%d %d', turn, ahead)) end

-- How `want` claims are divided, as batchflow.core.flow.share does: what has started, what is fresh.
function lanes.share(want, started, fresh, ahead)
  local least = math.min(fresh, math.floor((ahead + want) / (STARTED_OF_FRESH + 1)))
  local of_started = math.min(started, want - least)
  return of_started, math.min(fresh, want - of_started)
end

function lanes.ahead(before, started, fresh)
  return math.max(0, math.min(STARTED_OF_FRESH, before + started - STARTED_OF_FRESH * fresh))
end
