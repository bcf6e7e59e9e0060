-- claim: leases up to `limit` due messages for `destinations` to a worker, each with a new fence, flow keys in turn;
-- with when there may be more. A message is taken together with its place and its start, or not at all.
-- `token` numbers the claims of one store and worker, `told` is the latest whose answer came in: what a claim leased
-- whose answer was lost is given back first. `in_hand`, where it is given, is all that the worker has: what it holds here
-- beside that it has ended already, and the server, which has lost its latest writes, does not know it any more.
-- The answer: [claims, when there may be more or null, parameters by batch]; claim: [id, fence, destination, body,
-- batch, number, item, failures, losses, headers, retry, journal, started at, depth]; items that nobody has claimed
-- before come together: [destination, batch, started at, depth, [number, item, number, item, …]].
local LANES_AT_ONCE = 64

-- False where a later claim has been carried out already: this one was held up on its way, and nobody waits for it.
local function give_back_lost(worker, token, told)
  local kept = call('GET', P .. 'wc:' .. worker)
  if not kept then return true end
  local store, latest, ids = unpack(cjson.decode(kept))
  if store ~= SELF or latest <= told then return true end
  if token <= latest then return false end
  for _, id in ipairs(ids) do
    local message = messages.load(id)
    if message and message.o == worker then messages.take_back(id, message, false) end
  end
  call('DEL', P .. 'wc:' .. worker)
  batches.finish()
  return true
end

local function give_back_forgotten(worker, in_hand)
  local known = {}
  for _, id in ipairs(in_hand) do known[id] = true end
  for _, id in ipairs(call('HKEYS', ending.holder(worker))) do
    local message = not known[id] and messages.load(id)
    if message and message.o == worker then messages.take_back(id, message, false) end
  end
  batches.finish()
end

-- Lanes from which something may start now: keys that were served longest ago first.
local function ready(destinations)
  local found = {}
  for _, destination in ipairs(destinations) do
    local reply = call('ZRANGEBYSCORE', P .. 'rd:' .. destination, '-inf', now, 'WITHSCORES')
    for place = 1, #reply, 2 do
      local flow = flows.get(reply[place])
      if flow and flows.admitted(flow, 1) > 0 then
        found[#found + 1] = { destination, reply[place], flow, flow.tu, tonumber(reply[place + 1]) }
      end
    end
  end
  table.sort(found, function(one, other)
    for place = 4, 5 do
      if one[place] ~= other[place] then return one[place] < other[place] end
    end
    if one[2] ~= other[2] then return one[2] < other[2] end
    return one[1] < other[1]
  end)
  return found
end

local function lease_message(worker, id, about)
  local key = P .. 'm:' .. id
  local held = call('HMGET', key, 'f', 'y', 'b', 'n', 'i', 'x', 'l', 'h', 'r', 'st', 'dp', 'd')
  if held[5] then held[3], held[4], held[12] = string.sub(id, 1, -12), string.sub(id, -9), true end
  local batch = held[3] and batches.get(held[3])
  if not held[12] or (batch and batch.s == 'cancelling') then return nil end
  local fence, started, journal = tonumber(held[1] or 0) + 1, tonumber(held[10] or now), NULL
  call('HSET', key, 'o', worker, 'f', fence, 'st', started)
  if fence > 1 then
    local found = steps.of(record_of(call('HGETALL', key)))
    if #found > 0 or call('EXISTS', P .. 'a:' .. id) == 1 then
      local woken
      found, woken = steps.ripen(id, found)
      if woken then held[6], held[7] = 0, 0 end
      journal = steps.text(found)
    end
  end
  return {
    id, fence, about.destination, held[2] or 'null', out(held[3]), tonumber(held[4] or -1), held[5] or '',
    tonumber(held[6] or 0), tonumber(held[7] or 0), out(held[8]), out(held[9]), journal, started,
    batch and batch.dp or tonumber(held[11] or 0),
  }
end

local function lease_items(worker, member, due, about, want, taken)
  local items, name, batch = lanes.cut(about.lane, member, due, want)
  local made, rows = string.format('%.0f', due), {}
  for place, one in ipairs(items) do
    local number, item = one[1], one[2]
    local id = string.format('%s.r%09d', name, number)
    call('HSET', P .. 'm:' .. id, 'i', item, 'o', worker, 'f', '1', 't', made, 'st', NOW)
    taken.hold(id, '=' .. item)
    rows[place * 2 - 1], rows[place * 2] = number, item
  end
  if #items > 0 then taken.claims[#taken.claims + 1] = { about.destination, name, now, batch.dp, rows } end
  return #items
end

-- Lease up to `want` of one lane; how many.
local function take_from(worker, about, want, taken)
  local count = 0
  while count < want do
    local found = call('ZRANGEBYSCORE', about.lane, '-inf', now, 'WITHSCORES', 'LIMIT', 0, want - count)
    if #found == 0 then break end
    local gone = {}
    for place = 1, #found, 2 do
      local member = found[place]
      if lanes.range(member) then
        count = count + lease_items(worker, member, tonumber(found[place + 1]), about, want - count, taken)
      else
        gone[#gone + 1] = member
        local claim = lease_message(worker, member, about)
        if claim then
          taken.claims[#taken.claims + 1] = claim
          taken.hold(member, '!')
          count = count + 1
        end
      end
      if count >= want then break end
    end
    sliced(gone, function(part) call('ZREM', about.lane, unpack(part)) end)
  end
  return count
end

-- One round over the lanes that are ready; how many were leased, and whether another may find more.
local function round(worker, destinations, limit, taken)
  local found = ready(destinations)
  local count, leased = math.min(#found, LANES_AT_ONCE), 0
  local more = #found > LANES_AT_ONCE
  for place = 1, count do
    local destination, key, flow = unpack(found[place], 1, 3)
    local share = math.min(math.max(1, math.floor((limit - leased) / (count - place + 1))), limit - leased)
    local want = flows.admitted(flow, share)
    local about = { destination = destination, key = key, lane = lanes.name(destination, key) }
    local got = want > 0 and take_from(worker, about, want, taken) or 0
    if got > 0 then flows.take(flow, got) end
    lanes.recount(destination, key)
    leased = leased + got
    more = more or got == share
    if leased >= limit then break end
  end
  return leased, more
end

-- When a waiting message may start next, as far as time alone decides it.
local function next_due(destinations)
  local earliest
  for _, destination in ipairs(destinations) do
    local reply = call('ZRANGE', P .. 'rd:' .. destination, 0, -1, 'WITHSCORES')
    for place = 1, #reply, 2 do
      local flow = flows.get(reply[place])
      local p, rate = flows.limits(flow)
      if flow.pz ~= 1 and (not p or flow.n < p) then
        local at = math.max(tonumber(reply[place + 1]), flow.pk)
        if rate then at = math.max(at, math.ceil((flows.earliest(flow)))) end
        if not earliest or at < earliest then earliest = at end
      end
    end
  end
  if not earliest or earliest >= NEVER then return NULL end
  return earliest
end

local function parameters(claims)
  local found = {}
  for _, claim in ipairs(claims) do
    -- Of messages the fifth, of items the second.
    local batch = type(claim[5]) == 'table' and claim[2] or claim[5]
    if batch ~= NULL and not found[batch] then found[batch] = call('GET', P .. 'p:' .. batch) or 'null' end
  end
  return found
end

-- What one claim leases, bit by bit: the claims, their ids, and what the worker's hash is to say of each.
local function hold_all()
  local taken = { claims = {}, ids = {}, holds = {} }
  function taken.hold(id, how)
    taken.ids[#taken.ids + 1] = id
    taken.holds[#taken.holds + 1] = id
    taken.holds[#taken.holds + 1] = how
  end
  return taken
end

verbs.claim = function(worker, destinations, limit, token, told, in_hand)
  if limit < 1 or #destinations == 0 or not call('ZSCORE', P .. 'workers', worker) then return { {}, NULL, {}, now } end
  if not give_back_lost(worker, token, told) then return { {}, NULL, {}, now } end
  if opt(in_hand) then give_back_forgotten(worker, in_hand) end
  local taken, left = hold_all(), limit
  repeat
    local count, more = round(worker, destinations, left, taken)
    left = left - count
  until not more or count == 0 or left == 0
  sliced(taken.holds, function(part) call('HSET', ending.holder(worker), unpack(part)) end)
  -- One whose answer is unknown may still be on its way.
  if left < limit or told < token - 1 then
    call('SET', P .. 'wc:' .. worker, cjson.encode({ SELF, token, taken.ids }))
  end
  return { taken.claims, left == 0 and now or next_due(destinations), parameters(taken.claims), now }
end
