-- Nested lanes: those of items with a flow key of their own inside the key of their batch, the parent, whose room they
-- take too. The group of such a lane is the id of the batch, followed by MARK. `rn:<parent>:<destination>` holds each of
-- them that is not closed and whose own key is not full or paused, as `<flow key> \n <group>`: below 0 those that may
-- start something now, in the order in which they became ready, else by the time. All of them together are one lane of
-- their parent, whose group is MARK alone: so a claim passes all of them over at once while the parent is full. A lane that
-- its own key holds back is in `hb`, and `fu` of the key is 1 if it is full. `ik:<batch>:<bucket>` holds the keys of
-- items by number; `pa` of a message is its parent.
local MARK = '^'
nested.MARK = MARK

-- The parent of a group's lanes; nil if they are not nested.
function nested.parent(group)
  if string.byte(group, -1) ~= 94 or group == MARK then return nil end
  local batch = batches.get(string.sub(group, 1, -2))
  return batch and batch.k
end

function nested.ready_in(parent, destination) return P .. 'rn:' .. parent .. ':' .. destination end

-- Nested lanes may have something to start at `due`: so has the lane of their parent that stands for them. Only when the
-- call ends has that one the priority of the first of them.
local function place_parent(destination, parent, due)
  local name = lanes.id(destination, parent, MARK)
  local known = lanes.ready[name]
  if known and known <= due then return end
  call('HSETNX', P .. 'lt', name, string.format('%d 0', flows.latest_turn()))
  lanes.place(destination, parent, MARK, due, true)
  lanes.ready[name] = due
end

-- Set the score of a nested lane with a message due at `due`, with `earlier` only if that lowers it. Returns whether its
-- own key delays it.
function nested.place(destination, parent, key, group, due, earlier)
  local flow, member = flows.get_or_make(key), key .. '\n' .. group
  local opens, full = flows.opens_at(flow), flows.is_full(flow)
  local held = full or opens > now and opens > due
  -- First, so that a lane that is held back is found by its key wherever the script stops.
  if held then
    if full then flows.set(flow, 'fu', 1) end
    call('ZADD', P .. 'hb', 0, lanes.full_name(destination, key, group))
  end
  if full or opens >= NEVER then
    call('ZREM', nested.ready_in(parent, destination), member)
    nested.changed[parent .. '\n' .. destination] = true
    return true
  end
  local at = math.max(due, opens)
  local score = at > now and at or lanes.READY + flows.latest_turn() - lanes.BAND * lanes.priority(destination, key, group)
  place_parent(destination, parent, at > now and at or 0)
  nested.changed[parent .. '\n' .. destination] = true
  if earlier then
    call('ZADD', nested.ready_in(parent, destination), 'LT', score, member)
  else
    call('ZADD', nested.ready_in(parent, destination), score, member)
  end
  return held
end

on_each_call(function() nested.changed = {} end)

-- Remove a nested lane that is empty or closed from those that may start something.
function nested.remove(destination, parent, key, group)
  call('ZREM', nested.ready_in(parent, destination), key .. '\n' .. group)
  nested.changed[parent .. '\n' .. destination] = true
end

-- When the first of the lanes that are nested under a key may start something: 0 for now; nil if there are none.
function nested.first_due(destination, parent)
  local first = call('ZRANGE', nested.ready_in(parent, destination), 0, 0, 'WITHSCORES')[2]
  return first and math.max(0, tonumber(first))
end

-- The highest priority among the nested lanes under a key that may start something now.
function nested.priority(destination, parent)
  local first = call('ZRANGE', nested.ready_in(parent, destination), 0, 0, 'WITHSCORES')[2]
  return first and math.max(0, math.ceil((lanes.READY - tonumber(first)) / lanes.BAND)) or 0
end

-- Correct the lane that stands for those that are nested under a key.
function nested.recount(destination, parent)
  nested.changed[parent .. '\n' .. destination] = nil
  lanes.recount(destination, parent, MARK)
end

-- Correct the lanes that stand for nested ones.
function nested.flush()
  for name in pairs(nested.changed) do
    local parent, destination = string.match(name, '^(.*)\n(.*)$')
    lanes.recount(destination, parent, MARK)
  end
  nested.changed = {}
end

-- The lanes of a priority under a key that may start something now as far as their own keys decide, in their order.
local function ready(destination, parent, priority, limit)
  local from = nested.ready_in(parent, destination)
  -- Those whose time has come join the others.
  for _, member in ipairs(call('ZRANGEBYSCORE', from, 0, now, 'LIMIT', 0, LANES_LIMIT)) do
    lanes.recount(destination, lanes.parse_member(member))
  end
  local found, names = {}, {}
  local lowest = lanes.READY - priority * lanes.BAND
  local highest = priority == 0 and '(0' or string.format('(%.0f', lowest + lanes.BAND)
  for place, member in ipairs(call('ZRANGEBYSCORE', from, lowest, highest, 'LIMIT', 0, limit)) do
    local key, group = lanes.parse_member(member)
    names[place] = lanes.id(destination, key, group)
    found[place] = {
      destination = destination, key = key, group = group, name = names[place], lane = lanes.fresh(destination, key, group),
    }
  end
  for place, served in ipairs(lanes.last_served(names)) do found[place].ahead = served[2] end
  return found
end

-- Lease up to `want` messages of the lanes under a key, by `take_from`. Returns how many, and whether lanes were met
-- whose keys have become full or paused meanwhile: these are not in the way any more.
function nested.take(worker, about, want, taken, take_from)
  local got, more, moved = 0, true, false
  while more and got < want do
    local limit, before, stale = math.min(want - got, LANES_LIMIT), got, false
    local found = ready(about.destination, about.key, about.priority, limit)
    more = #found == limit
    for place, lane in ipairs(found) do
      local flow = flows.get_or_make(lane.key)
      local share = math.max(1, math.floor((want - got) / (#found - place + 1)))
      local count = flows.admitted(flow, share)
      local started, fresh = 0, 0
      stale = stale or count <= 0
      if count > 0 then started, fresh = take_from(worker, lane, count, taken) end
      if started + fresh > 0 then
        local turn = flows.take(flow, started + fresh, taken.ids[#taken.ids])
        lanes.set_served(lane.name, turn, lanes.ahead(lane.ahead, started, fresh))
      end
      lanes.recount(lane.destination, lane.key, lane.group)
      got = got + started + fresh
      more = more or started + fresh == share
    end
    moved = moved or stale
    more = more and (got > before or stale)
  end
  return got, moved
end

-- Items

local function keys_of(id, number) return P .. 'ik:' .. id .. ':' .. math.floor(number / BUCKET) end
nested.keys_of = keys_of

-- The flow key of an item of a batch.
function nested.key_of(batch, number)
  return batch.ik == '1' and call('HGET', keys_of(batch.id, number), number) or batch.k
end

-- The group of an item's lane.
function nested.group_of(batch, key) return key == batch.k and batch.id or batch.id .. MARK end

-- The keys of the items `first`, …, by number, from [the limits, of each item the place of its own in these or 0]; nil if
-- none has a key of its own.
function nested.keys(batch, own, first)
  if not own[2] then return nil end
  for _, limits in ipairs(own[1]) do
    if limits[LIMITS.key] ~= batch.k then flows.apply_message_limits(limits) end
  end
  local found = {}
  for place, at in ipairs(own[2]) do
    local key = at > 0 and own[1][at][LIMITS.key]
    if key and key ~= batch.k then found[first + place - 1] = key end
  end
  return found
end

-- Store the keys of items that start, and put their lanes in their place.
function nested.start(batch, fresh, keys)
  local fields, counts = {}, {}
  for number in pairs(fresh) do
    local key = keys[number]
    if key then
      local name = keys_of(batch.id, number)
      local list = fields[name] or {}
      fields[name] = list
      list[#list + 1] = number
      list[#list + 1] = key
      counts[key] = (counts[key] or 0) + 1
    end
  end
  -- First, so that no item is under a wrong key wherever the script stops.
  if next(counts) and batch.ik ~= '1' then
    call('HSET', P .. 'b:' .. batch.id, 'ik', '1')
    batch.ik = '1'
  end
  for name, list in pairs(fields) do call('HSET', name, unpack(list)) end
  return counts
end

-- Drop the ranges of a batch whose items have all ended from its nested lanes.
function nested.drop_ranges(batch)
  lanes.each(batch.id, function(destination, key, group)
    if nested.parent(group) then
      call('DEL', lanes.fresh(destination, key, group))
      lanes.recount(destination, key, group)
    end
  end)
end
