-- claim: leases up to `limit` due messages for what a worker serves to it, each with a new fence, flow keys in turn and
-- the lanes of each; with when there may be more. What was lost too often is leased alone. A message is taken together with its place and its start, or not at all.
-- `token` numbers the claims of one store and worker, `told` is the latest whose answer came in: what a claim leased
-- whose answer was lost is given back first. `in_hand`, where it is given, is all that the worker has: what it holds here
-- beside that it has ended already, and the server, which has lost its latest writes, does not know it any more.
-- `list` names what the worker serves, and `destinations` tells it where that is new; null is answered, and nothing is
-- done, where it has to be told.
-- The answer: [claims, when there may be more or null, parameters by batch]; claim: [id, fence, destination, body,
-- batch, number, item, failures, losses, headers, retry, journal, started at, depth, data]; items that nobody has
-- claimed before come together: [destination, batch, started at, depth, [number, item, …], their data or null].
-- The lanes from which a claim takes, among those of the destinations that its worker serves.
-- SEEN_AT_ONCE: how many destinations are looked at together, MOST_SEEN: how many at all where they have enough, LANES_SEEN:
-- how many lanes of one together, STALE_AT_ONCE: how many of its lanes are moved.
local SEEN_AT_ONCE, MOST_SEEN, LANES_SEEN, STALE_AT_ONCE = 64, 256, 128, 64

-- Call `act` with each destination that a worker serves and the first score of its lanes, of those between two scores
-- and in their order, until it answers true. `served`: the worker, the key of its list, what is known of destinations, and
-- what waits to be claimed alone.
local function each_destination(served, from, to, act)
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
  lanes.place_again(destination, members)
  return #members
end

-- What is known of a flow key while lanes are looked at, by key in `of`.
local function known(of, key)
  local about = of[key]
  if not about then
    local stand, held = lanes.score_of(key, now)
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
  if #reply == 0 then lanes.mark_changed(destination) end
  while #reply > 0 do
    local moved, ahead, all = {}, {}, #reply < LANES_SEEN * 2
    for place = 1, #reply, 2 do
      local member, score = reply[place], tonumber(reply[place + 1])
      -- What stands behind those is served after them; but not what has become due.
      local behind = #found - before >= want and score < 0 and score >= latest
      if behind then
        all, found.cut = true, true
      end
      local key, group = lanes.parse_member(member)
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
    lanes.place_again(destination, moved)
    if all then break end
    read()
  end
  found.latest = math.max(found.latest, latest)
end

-- Of lanes of one key that have the same turn the one goes first of which something is due first.
local function is_due_before(one, other)
  for _, about in ipairs({ one, other }) do
    about.due = about.due or lanes.first_due(about.destination, about.key, about.group) or NEVER
  end
  if one.due ~= other.due then return one.due < other.due end
  return one.name < other.name
end

-- Lanes from which something may start now: keys that were served longest ago first, and of each key its lanes. Of the
-- first so many as `limit` claims need, with `cut` where there may be more.
local function ready_lanes(served, limit)
  local want = math.min(limit, LANES_LIMIT + 1)
  local found, seen, looked = { cut = false, latest = -math.huge }, 0, {}
  each_destination(served, '-inf', now, function(destination, first)
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
    each_destination(served, 0, now, function(destination)
      if looked[destination] then return false end
      look_at(destination, want, found)
      seen = seen + 1
      return seen == SEEN_AT_ONCE
    end)
  end
  local names = {}
  for place, about in ipairs(found) do names[place] = about.name end
  for place, served in ipairs(lanes.last_served(names)) do
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

local SUSPECTS, DUE_AT_ONCE = 100, 64

-- False where a later claim has been carried out already: this one was held up on its way, and nobody waits for it.
local function give_back_lost(worker, token, told)
  local kept = call('GET', P .. 'wc:' .. worker)
  if not kept then return true end
  local store, latest, ids = unpack(cjson.decode(kept))
  if store ~= STORE or latest <= told then return true end
  if token <= latest then return false end
  for _, id in ipairs(ids) do
    local message = messages.load(id)
    if message and message.o == worker then messages.reclaim(id, message, false) end
  end
  call('DEL', P .. 'wc:' .. worker)
  batches.end_finished()
  return true
end

local function give_back_forgotten(worker, in_hand)
  local known = {}
  for _, id in ipairs(in_hand) do known[id] = true end
  for _, id in ipairs(call('HKEYS', workers.claims_key(worker))) do
    local message = not known[id] and messages.load(id)
    if message and message.o == worker then messages.reclaim(id, message, false) end
  end
  batches.end_finished()
end

-- Have a worker serve a list of destinations, which is told where nobody serves it yet; false where it has to be.
local function serve(worker, list, destinations)
  if not workers.is_list_used(list) then
    destinations = or_nil(destinations)
    if not destinations then return false end
    local key = P .. 'ds:' .. list
    call('DEL', key)
    in_slices(destinations, function(part) call('SADD', key, unpack(part)) end)
    for _, destination in ipairs(destinations) do
      -- What was written without `rds` has its place there from now on.
      if call('ZCARD', P .. 'rd:' .. destination) > 0 then lanes.mark_changed(destination) end
    end
  end
  workers.drop_list(worker)
  call('HSET', P .. 'wl', worker, list)
  return true
end

local function lease_message(worker, id, about)
  local key = P .. 'm:' .. id
  local held = call('HMGET', key, 'f', 'y', 'b', 'n', 'i', 'x', 'l', 'h', 'r', 'st', 'dp', 'd')
  local data
  if held[5] then
    held[3], held[4], held[12] = string.sub(id, 1, -12), string.sub(id, -9), true
    local of = batches.get(held[3])
    held[8] = of and of.hd or false
    if of and of.dd == '1' then data = call('HGET', items.data(held[3], tonumber(held[4])), tonumber(held[4])) end
  end
  local batch = held[3] and batches.get(held[3])
  if not held[12] or (batch and batch.s == 'cancelling') then return nil end
  local fence, started, journal = tonumber(held[1] or 0) + 1, tonumber(held[10] or now), NULL
  call('HSET', key, 'o', worker, 'f', fence, 'st', started)
  if fence > 1 then
    local found = steps.of(to_table(call('HGETALL', key)))
    if #found > 0 or call('EXISTS', P .. 'a:' .. id) == 1 then
      local woken
      found, woken = steps.ripen(id, found)
      if woken then held[6], held[7] = 0, 0 end
      journal = steps.text(found)
    end
  end
  return {
    id, fence, about.destination, held[2] or 'null', or_null(held[3]), tonumber(held[4] or -1), held[5] or '',
    tonumber(held[6] or 0), tonumber(held[7] or 0), or_null(held[8]), or_null(held[9]), journal, started,
    batch and batch.dp or tonumber(held[11] or 0), or_null(data),
  }
end

local function lease_items(worker, member, about, want, taken)
  local open_items, name, batch = lanes.take_items(about.lane, member, want)
  local rows, data = {}, NULL
  for place, one in ipairs(open_items) do
    local number, item = one[1], one[2]
    local id = string.format('%s.r%09d', name, number)
    call('HSET', P .. 'm:' .. id, 'i', item, 'o', worker, 'f', '1', 't', NOW, 'st', NOW)
    taken.hold(id, '=' .. item)
    rows[place * 2 - 1], rows[place * 2] = number, item
    if batch.dd == '1' then
      data = data == NULL and {} or data
      data[place] = or_null(call('HGET', items.data(name, number), number))
    end
  end
  if #open_items > 0 then
    taken.claims[#taken.claims + 1] = { about.destination, name, now, batch.dp, rows, data }
    if batch.hd then taken.headers[name] = batch.hd end
  end
  return #open_items
end

-- Lease these messages of a lane; how many.
local function lease_all(worker, about, ids, from, taken)
  local count = 0
  for _, id in ipairs(ids) do
    local claim = lease_message(worker, id, about)
    if claim then
      taken.claims[#taken.claims + 1] = claim
      taken.hold(id, '!')
      count = count + 1
    end
  end
  in_slices(ids, function(part) call('ZREM', from, unpack(part)) end)
  return count
end

-- Lease up to `want` of what is fresh in a lane, by id; how many.
local function take_fresh(worker, about, want, taken)
  local later = call('ZRANGEBYSCORE', about.lane, '(0', now, 'LIMIT', 0, CHUNK)
  -- What was to begin later takes its place by its id.
  for _, id in ipairs(later) do call('ZADD', about.lane, 0, id) end
  local count = 0
  while count < want do
    local found = call('ZRANGEBYSCORE', about.lane, 0, 0, 'LIMIT', 0, want - count)
    if #found == 0 then break end
    local ids = {}
    for _, member in ipairs(found) do
      if lanes.parse_range(member) then
        -- What comes before it in the lane is leased before it.
        count = count + lease_all(worker, about, ids, about.lane, taken)
        ids = {}
        count = count + lease_items(worker, member, about, want - count, taken)
      else
        ids[#ids + 1] = member
      end
      if count + #ids >= want then break end
    end
    count = count + lease_all(worker, about, ids, about.lane, taken)
  end
  return count
end

-- Lease up to `want` of one lane: what has started by when it is due, and what is fresh; how many of each.
local function take_from(worker, about, want, taken)
  local from = lanes.started(about.destination, about.key, about.group)
  local started = call('ZRANGEBYSCORE', from, '-inf', now, 'LIMIT', 0, want)
  local first, rest = lanes.share(want, #started, want, about.ahead)
  local got = 0
  if first > 0 then got = lease_all(worker, about, { unpack(started, 1, first) }, from, taken) end
  local fresh = rest > 0 and take_fresh(worker, about, rest, taken) or 0
  if fresh < rest and #started > first then
    local more = { unpack(started, first + 1, math.min(#started, first + rest - fresh)) }
    got = got + lease_all(worker, about, more, from, taken)
  end
  return got, fresh
end

-- One round over the lanes that are ready; how many were leased, and whether another may find more.
local function round(served, limit, taken)
  local found = ready_lanes(served, limit)
  local count, leased = math.min(#found, LANES_LIMIT), 0
  local more = found.cut or #found > LANES_LIMIT
  for place = 1, count do
    local about = found[place]
    local share = math.min(math.max(1, math.floor((limit - leased) / (count - place + 1))), limit - leased)
    local want = flows.admitted(about.flow, share)
    if want > 0 then
      about.lane = lanes.fresh(about.destination, about.key, about.group)
      local started, fresh = take_from(served.worker, about, want, taken)
      local got = started + fresh
      if got > 0 then
        lanes.set_served(about.name, flows.take(about.flow, got), lanes.ahead(about.ahead, started, fresh))
      end
      lanes.recount(about.destination, about.key, about.group)
      leased = leased + got
      more = more or got == share
    elseif select(2, lanes.score_of(about.key, now)) then
      -- Another lane of its key has taken the start there was.
      lanes.place_again(about.destination, { about.member })
    end
    if leased >= limit then break end
  end
  return leased, more
end

-- Call `act` with what waits to be claimed alone, the earliest first, that may start as far as its lane is concerned: id,
-- message, flow, when it is due; until it answers true.
local function each_suspect(served, act)
  served.suspects = served.suspects or call('ZRANGE', P .. 'sus', 0, SUSPECTS - 1, 'WITHSCORES')
  local found = served.suspects
  for place = 1, #found, 2 do
    local message = messages.load(found[place])
    local wanted = message and call('SMISMEMBER', served.list, message.d)[1] == 1
    local flow = wanted and flows.get(message.k)
    if flow and not lanes.is_closed(lanes.group(found[place], message)) then
      if act(found[place], message, flow, tonumber(found[place + 1])) then return end
    end
  end
end

-- Lease the one that is claimed alone and due first; whether there was one.
local function take_suspect(served, taken)
  local leased = false
  each_suspect(served, function(id, message, flow, due)
    if due > now or flows.admitted(flow, 1) == 0 then return due > now end
    leased = lease_all(served.worker, { destination = message.d }, { id }, P .. 'sus', taken) == 1
    if leased then
      flows.take(flow, 1)
      call('HSET', P .. 'wa', served.worker, id)
    end
    return leased
  end)
  return leased
end

-- When a waiting message may start next, as far as time alone decides it.
local function next_due(served)
  local earliest = NEVER
  local function look(flow, due)
    local p = flows.limits(flow)
    if not p or flow.n < p then earliest = math.min(earliest, math.max(due, flows.opens_at(flow))) end
  end
  each_destination(served, '-inf', '(' .. string.format('%.0f', NEVER), function(destination, first)
    if first >= earliest then return true end
    local offset, count = 0, 1
    repeat
      local reply = call('ZRANGEBYSCORE', P .. 'rd:' .. destination, 0, '+inf', 'WITHSCORES', 'LIMIT', offset, count)
      for place = 1, #reply, 2 do look(flows.get_or_make((lanes.parse_member(reply[place]))), tonumber(reply[place + 1])) end
      local ended = #reply < count * 2 or tonumber(reply[#reply]) >= earliest
      offset, count = offset + count, DUE_AT_ONCE
    until ended
  end)
  each_suspect(served, function(_, _, flow, due) look(flow, due) end)
  return earliest < NEVER and earliest or NULL
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
  local taken = { claims = {}, ids = {}, holds = {}, headers = {} }
  function taken.hold(id, how)
    taken.ids[#taken.ids + 1] = id
    taken.holds[#taken.holds + 1] = id
    taken.holds[#taken.holds + 1] = how
  end
  return taken
end

verbs.claim = function(worker, list, destinations, limit, token, told, in_hand)
  if limit < 1 then return { {}, NULL, {}, now } end
  -- Of a worker that is not known any more nothing is remembered.
  if call('HGET', P .. 'wl', worker) ~= list then
    if not call('ZSCORE', P .. 'workers', worker) then return { {}, NULL, {}, now } end
    if not serve(worker, list, destinations) then return nil end
  end
  if not give_back_lost(worker, token, told) then return { {}, NULL, {}, now } end
  if or_nil(in_hand) then give_back_forgotten(worker, in_hand) end
  if workers.suspect_of(worker) then return { {}, now + ALONE_MS, {}, now } end
  if state.claimed_at > now + SKEW_MS then lanes.place_all_held_back() end
  lanes.flush()
  local taken, left, more = hold_all(), limit, false
  local served = { worker = worker, list = P .. 'ds:' .. list, known = {} }
  local alone = take_suspect(served, taken)
  if alone then
    left = limit - 1
  else
    local count
    repeat
      count, more = round(served, left, taken)
      left = left - count
    until not more or count == 0 or left == 0
  end
  in_slices(taken.holds, function(part) call('HSET', workers.claims_key(worker), unpack(part)) end)
  -- One whose answer is unknown may still be on its way.
  if left < limit or told < token - 1 then
    call('SET', P .. 'wc:' .. worker, cjson.encode({ STORE, token, taken.ids }))
  end
  local due = alone and now + ALONE_MS or (left == 0 or more) and now or next_due(served)
  return { taken.claims, due, parameters(taken.claims), now, taken.headers }
end
