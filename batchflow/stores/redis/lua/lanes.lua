-- Lanes: the queues. A lane holds the messages that wait for one destination under one flow key for one batch (or
-- none). `group` is the id of the batch, or ''; HELD follows it for messages held back until the batch is walked or
-- approved.
-- `q:<lane>` holds fresh messages by due time (0: at once), then by id. A member is the id of a message, or a range of
-- unclaimed items of a batch: `<id of the first item's run> \n <last number>`. `s:<lane>` holds messages that have
-- started, by due time. Messages lost so often that they are claimed alone are in `sus`, whatever their lane.
-- `rd:<destination>` holds each lane that is not closed, as `<flow key> \n <group>`. The score of a lane from which
-- something may start now is the turn of its key, counted from READY and so below 0; the score of any other lane is the
-- time from which something may start. A claim corrects scores as it meets them: a lane whose time has come, or whose
-- key has had a turn meanwhile. Corrected lanes keep their order, in fractions of the turn, before lanes served in that
-- turn. `rds` holds destinations by the lowest score in their `rd`. `hb` holds lanes that their key once delayed by its
-- rate, a pause or parking, as `<flow key> \n <destination> \n <group>`, all with score 0, so that the lanes of a key
-- are found when its limits change. `lt` records when each lane that is not empty was served last, and how far it has
-- run ahead. `bq:<batch>` lists the lanes of a batch. Between READY and half of it a score is exact to a 1024th.
-- A lane of a batch with a priority is raised: its score, if something may start now, is BAND lower for each priority, so
-- that each priority has a band of scores, the highest one first. There the fractions of turns are coarser. A destination
-- with raised lanes is before all others in `rds`.
local HELD, READY, BAND, STEPS, SERVED = '~', -2 ^ 43, 2 ^ 42, 1024, 0.75
lanes.READY, lanes.BAND = READY, BAND
on_each_call(function() lanes.ready, lanes.added_to_batch, lanes.changed, lanes.moved = {}, {}, {}, 0 end)

-- The group of a message. The completion of a batch comes after all of its messages and belongs to no group.
function lanes.group(id, message)
  local batch = message.b
  if not batch or string.find(id, '%.z%d*$') then return '' end
  if message.pa then return batch .. nested.MARK end
  return message.he and batch .. HELD or batch
end

-- The batch of a group, or ''.
function lanes.batch_of(group)
  local last = string.sub(group, -1)
  return (last == HELD or last == nested.MARK) and string.sub(group, 1, -2) or group
end

function lanes.is_held_back(group) return string.sub(group, -1) == HELD end

function lanes.id(destination, key, group) return key .. '|' .. destination .. '|' .. group end

function lanes.fresh(destination, key, group) return P .. 'q:' .. lanes.id(destination, key, group) end

function lanes.started(destination, key, group) return P .. 's:' .. lanes.id(destination, key, group) end

function lanes.is_suspect(message) return message.l >= SUSPECT_LOSSES end

-- True if a group cannot be claimed: its batch is paused, cancelled, not yet walked or not approved.
function lanes.is_closed(group)
  if group == '' or group == nested.MARK then return false end
  local batch = batches.get(lanes.batch_of(group))
  if not batch then return false end
  if batch.pz == 1 or batch.s == 'cancelling' then return true end
  return lanes.is_held_back(group) and (batch.wd ~= 1 or batch.bk == 1 or batch.ua == 1)
end

-- Record that the lowest score of a destination's lanes may have changed; `lowered`: it is the lower of
-- this and the previous one.
function lanes.mark_changed(destination, lowered)
  local known = lanes.changed[destination]
  if not lowered then
    lanes.changed[destination] = true
  elseif known ~= true and (not known or lowered < known) then
    lanes.changed[destination] = lowered
  end
end

function lanes.flush()
  if next(flows.freed) then flows.place_freed() end
  if next(nested.changed) then nested.flush() end
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

-- The score in `rd` of a lane with a message due at `due`, and whether its flow key delays it.
function lanes.score_of(key, due)
  local flow = flows.get_or_make(key)
  local opens = flows.opens_at(flow)
  if opens > now and opens > due then return opens, true end
  if due > now then return due, false end
  return READY + flow.tu, false
end

-- The priority of the lanes of a group.
function lanes.priority(destination, key, group)
  if group == '' then return 0 end
  if group == nested.MARK then return nested.priority(destination, key) end
  local batch = batches.get(lanes.batch_of(group))
  return batch and batch.pr or 0
end

-- Call `act` with each band of raised lanes of a destination: its scores from and to, and its priority.
function lanes.each_band(destination, act)
  local above = '-inf'
  while true do
    local first = call('ZRANGEBYSCORE', P .. 'rd:' .. destination, above, '(' .. READY, 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if not first then return end
    local priority = math.ceil((READY - tonumber(first)) / BAND)
    above = READY - (priority - 1) * BAND
    act(above - BAND, string.format('(%.0f', above), priority)
  end
end

-- How much higher the score of a lane would be if it had no priority.
function lanes.band_shift(priority) return priority * BAND end

-- True if the score of a lane is still right.
function lanes.is_in_place(score, stand) return score < 0 and math.floor(score) == stand end

function lanes.full_name(destination, key, group) return key .. '\n' .. destination .. '\n' .. group end

-- Set the score of a lane, with `earlier` only if that lowers it. Returns whether its flow key delays it.
function lanes.place(destination, key, group, due, earlier)
  local parent = nested.parent(group)
  if parent then return nested.place(destination, parent, key, group, due, earlier) end
  local score, held = lanes.score_of(key, due)
  if score < 0 then score = score + SERVED - BAND * lanes.priority(destination, key, group) end
  -- First, so that a delayed lane is found by its key wherever the script stops.
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

-- Correct the scores of lanes of a destination that each have a message due by now.
function lanes.place_again(destination, members)
  local scores, names = {}, {}
  for _, member in ipairs(members) do
    local key, group = lanes.parse_member(member)
    local score, held = lanes.score_of(key, now)
    if score < 0 then
      lanes.moved = math.min(lanes.moved + 1, STEPS / 2)
      score = score + lanes.moved / STEPS - BAND * lanes.priority(destination, key, group)
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

-- Correct the scores of all lanes that a key once delayed, since its limits have changed.
function lanes.place_held_back(key)
  release(call('ZRANGEBYLEX', P .. 'hb', '[' .. key .. '\n', '(' .. key .. '\11'))
end

-- Correct the scores of all lanes that any key once delayed: after the clock was set back, start times far ahead are
-- wrong.
function lanes.place_all_held_back() release(call('ZRANGE', P .. 'hb', 0, -1)) end

-- A message of the lane is due at `due`.
function lanes.mark_ready(destination, key, group, due)
  local name = lanes.id(destination, key, group)
  local known = lanes.ready[name]
  -- A new lane joins the end of the rotation.
  if not known then call('HSETNX', P .. 'lt', name, string.format('%d 0', flows.latest_turn())) end
  if not known or known > due then
    if not lanes.is_closed(group) then lanes.place(destination, key, group, due, true) end
    lanes.ready[name] = due
  end
  notify_stores()
end

-- Add a lane to the list of its batch's lanes.
function lanes.add_to_batch(destination, key, group)
  local name = lanes.id(destination, key, group)
  if group == '' or lanes.added_to_batch[name] then return end
  lanes.added_to_batch[name] = true
  call('SADD', P .. 'bq:' .. lanes.batch_of(group), destination .. '\n' .. key .. '\n' .. group)
end

-- Call `act` with each lane of a batch: destination, key, group.
function lanes.each(batch, act)
  for _, name in ipairs(call('SMEMBERS', P .. 'bq:' .. batch)) do
    act(string.match(name, '^(.*)\n(.*)\n(.*)$'))
  end
end

-- Remove a lane that is empty or closed from those that may start something.
local function remove_lane(destination, key, group)
  local parent = nested.parent(group)
  if parent then return nested.remove(destination, parent, key, group) end
  call('ZREM', P .. 'rd:' .. destination, key .. '\n' .. group)
  lanes.mark_changed(destination)
end

-- Make the lanes of a batch unavailable to claims.
function lanes.close(batch)
  lanes.each(batch, function(destination, key, group)
    remove_lane(destination, key, group)
    lanes.ready[lanes.id(destination, key, group)] = nil
  end)
end

-- Make the lanes of a batch available again, except those closed for another reason.
function lanes.open(batch)
  lanes.each(batch, lanes.recount)
  notify_stores()
end

-- The sorted set in which a message waits, and whether that is the one of suspects.
function lanes.queue_of(id, message)
  if lanes.is_suspect(message) then return P .. 'sus', true end
  local group = lanes.group(id, message)
  if message.f > 0 then return lanes.started(message.d, message.k, group) end
  return lanes.fresh(message.d, message.k, group)
end

-- Put a message into its queue.
function lanes.enqueue(id, message, due)
  local place, alone = lanes.queue_of(id, message)
  call('ZADD', place, due, id)
  if alone then return notify_stores() end
  local group = lanes.group(id, message)
  lanes.add_to_batch(message.d, message.k, group)
  lanes.mark_ready(message.d, message.k, group, due)
end

-- Remove a message from its queue.
function lanes.dequeue(id, message)
  local place, alone = lanes.queue_of(id, message)
  call('ZREM', place, id)
  if not alone then lanes.recount(message.d, message.k, lanes.group(id, message)) end
end

-- The batch, the first and the last number of a range; nil for a message.
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

-- Take up to `want` open items from the front of a range: [number, item id], …, the batch's id and the batch.
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

-- The due time of the first fresh message in a lane. Removes ranges whose items have all ended.
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

-- The earliest due time in a lane; nil if it is empty.
function lanes.first_due(destination, key, group)
  if group == nested.MARK then return nested.first_due(destination, key) end
  local due = head(lanes.fresh(destination, key, group))
  if due ~= 0 then
    local other = call('ZRANGE', lanes.started(destination, key, group), 0, 0, 'WITHSCORES')[2]
    if other and (not due or tonumber(other) < due) then due = tonumber(other) end
  end
  return due
end

-- Set the score of a lane anew after messages were taken. Returns whether its flow key delays it.
function lanes.recount(destination, key, group)
  local due = lanes.first_due(destination, key, group)
  local name = lanes.id(destination, key, group)
  lanes.ready[name] = due
  if due and not lanes.is_closed(group) then return lanes.place(destination, key, group, due, false) end
  remove_lane(destination, key, group)
  if due then return false end
  call('HDEL', P .. 'lt', name)
  local flow = flows.get(key)
  if not flow or flows.may_hold_back(flow) then call('ZREM', P .. 'hb', lanes.full_name(destination, key, group)) end
  return false
end

-- Of each lane the turn in which it was served last, and how far it had run ahead.
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

-- Divide `want` claims between started and fresh messages, as batchflow.core.flow.share does.
function lanes.share(want, started, fresh, ahead)
  local least = math.min(fresh, math.floor((ahead + want) / (STARTED_OF_FRESH + 1)))
  local of_started = math.min(started, want - least)
  return of_started, math.min(fresh, want - of_started)
end

function lanes.ahead(before, started, fresh)
  return math.max(0, math.min(STARTED_OF_FRESH, before + started - STARTED_OF_FRESH * fresh))
end
