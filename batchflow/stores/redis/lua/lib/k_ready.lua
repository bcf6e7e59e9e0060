-- The lanes from which a claim takes, among those of the destinations that its worker serves.
-- SEEN_AT_ONCE: how many destinations are looked at together, MOST_SEEN: how many at all where they have enough, LANES_SEEN:
-- how many lanes of one together, STALE_AT_ONCE: how many of its lanes are moved.
local SEEN_AT_ONCE, MOST_SEEN, LANES_SEEN, STALE_AT_ONCE = 64, 256, 128, 64

-- Call `act` with each destination that a worker serves and the first score of its lanes, of those between two scores
-- and in their order, until it answers true. `served`: the worker, the key of its list, what is known of destinations, and
-- what waits to be claimed alone.
function ready.each_destination(served, from, to, act)
  local offset = 0
  repeat
    local reply = call('ZRANGEBYSCORE', P .. 'rds', from, to, 'WITHSCORES', 'LIMIT', offset, SEEN_AT_ONCE)
    local unknown = {}
    for place = 1, #reply, 2 do
      if served.known[reply[place]] == nil then unknown[#unknown + 1] = reply[place] end
    end
    if #unknown > 0 then
      for place, found in ipairs(call('SMISMEMBER', served.list, unpack(unknown))) do
        served.known[unknown[place]] = found == 1
      end
    end
    for place = 1, #reply, 2 do
      if served.known[reply[place]] and act(reply[place], tonumber(reply[place + 1])) then return end
    end
    offset = offset + SEEN_AT_ONCE
  until #reply < 2 * SEEN_AT_ONCE
end

-- Lanes of a destination whose time has come join those that are ready: how many, at most as many as are looked at.
local function promote(destination)
  local members = call('ZRANGEBYSCORE', P .. 'rd:' .. destination, 0, now, 'LIMIT', 0, SEEN_AT_ONCE)
  lanes.rearrange(destination, members)
  return #members
end

-- What is known of a flow key while lanes are looked at, by key in `of`.
local function known(of, key)
  local about = of[key]
  if not about then
    local stand, held = lanes.stand(key, now)
    about = { stand = stand, held = held, flow = flows.get(key) }
    about.free = not held and flows.admitted(about.flow, 1) > 0
    of[key] = about
  end
  return about
end

-- Add the lanes of a destination from which something may start now to those found: all of them where they are few, else
-- at least `want` that are served first. Lanes whose key was served through others stand too far ahead: a few are moved
-- to where they belong, so that they hide no key that has waited longer, however many there are.
local function look_at(destination, want, found)
  local before, offset, stale, latest, of = #found, 0, 0, -math.huge, {}
  local reply
  local function read()
    reply = call(
      'ZRANGEBYSCORE', P .. 'rd:' .. destination, '-inf', now, 'WITHSCORES', 'LIMIT', offset, LANES_SEEN
    )
    return #reply == LANES_SEEN * 2
  end
  if read() and promote(destination) > 0 then read() end
  if #reply == 0 then lanes.touch(destination) end
  while #reply > 0 do
    local moved, ahead, all = {}, {}, #reply < LANES_SEEN * 2
    for place = 1, #reply, 2 do
      local member, score = reply[place], tonumber(reply[place + 1])
      -- What stands behind those is served after them; but not what has become due.
      local behind = #found - before >= want and score < 0 and score >= latest
      if behind then
        all, found.cut = true, true
      end
      local key, group = lanes.key_of(member)
      local about = not behind and known(of, key)
      if about and about.held then
        moved[#moved + 1] = member
      elseif about then
        if about.free then
          latest = math.max(latest, about.stand)
          found[#found + 1] = {
            destination = destination, key = key, group = group, flow = about.flow, member = member,
            name = lanes.id(destination, key, group),
          }
        elseif score >= 0 then
          moved[#moved + 1] = member
        end
        if not lanes.is_in_place(score, about.stand) then ahead[#ahead + 1] = member end
        offset = offset + 1
      end
    end
    if not all and stale < STALE_AT_ONCE and #ahead > 0 then
      for place = 1, math.min(#ahead, STALE_AT_ONCE - stale) do moved[#moved + 1] = ahead[place] end
      stale = stale + #ahead
      -- Now they stand elsewhere: all anew.
      for place = #found, before + 1, -1 do found[place] = nil end
      offset, latest = 0, -math.huge
    else
      if found.many then
        for _, member in ipairs(ahead) do moved[#moved + 1] = member end
      end
      if not all and #found - before >= want then
        all, found.cut = true, true
      end
    end
    lanes.rearrange(destination, moved)
    if all then break end
    read()
  end
  found.latest = math.max(found.latest, latest)
end

-- Of lanes of one key that have the same turn the one goes first of which something is due first.
local function is_due_before(one, other)
  for _, about in ipairs({ one, other }) do
    about.due = about.due or lanes.due(about.destination, about.key, about.group) or NEVER
  end
  if one.due ~= other.due then return one.due < other.due end
  return one.name < other.name
end

-- Lanes from which something may start now: keys that were served longest ago first, and of each key its lanes. Of the
-- first so many as `limit` claims need, with `cut` where there may be more.
function ready.lanes(served, limit)
  local want = math.min(limit, LANES_LIMIT + 1)
  local found, seen, looked = { cut = false, latest = -math.huge }, 0, {}
  ready.each_destination(served, '-inf', now, function(destination, first)
    seen = seen + 1
    local enough = #found >= want
    local later = enough and first >= found.latest
    if later then found.cut = true end
    looked[destination] = true
    if not later or promote(destination) > 0 then look_at(destination, want, found) end
    found.many = seen >= SEEN_AT_ONCE
    if not enough or not found.many then return false end
    found.cut = true
    return later or seen >= MOST_SEEN
  end)
  if seen >= SEEN_AT_ONCE then
    -- What has become due may be of a key that waits longest, wherever its destination stands.
    seen = 0
    ready.each_destination(served, 0, now, function(destination)
      if looked[destination] then return false end
      look_at(destination, want, found)
      seen = seen + 1
      return seen == SEEN_AT_ONCE
    end)
  end
  local names = {}
  for place, about in ipairs(found) do names[place] = about.name end
  for place, served in ipairs(lanes.served(names)) do
    found[place].turn, found[place].ahead = served[1], served[2]
  end
  table.sort(found, function(one, other)
    if one.flow.tu ~= other.flow.tu then return one.flow.tu < other.flow.tu end
    if one.key ~= other.key then return one.key < other.key end
    if one.turn ~= other.turn then return one.turn < other.turn end
    return one ~= other and is_due_before(one, other)
  end)
  return found
end
