-- claim: leases up to `limit` due messages of the worker's destinations to it, each with a new fence. Flow keys take
-- turns, and so do the lanes of each key. A message that was lost too often is leased alone. A message is leased
-- together with its slot and its start time, or not at all. `token` numbers the claims of one store and worker, and
-- `acknowledged` is the latest token whose answer arrived: messages of a claim whose answer was lost are released
-- first. `held`, if given, lists all messages that the worker has: any other message that it holds here has already
-- been settled, in a write that the server has lost. `list` is the hash of the worker's destinations. If the server
-- does not know it and `destinations` is null, nothing is done and null is answered. The answer: [claims, when more may
-- be due or null, parameters by batch, now, headers by batch]. A claim: [id, fence, destination, body, batch, number,
-- item, failures, losses, headers, retry, journal, started at, depth, data]. Items that are claimed for the first time
-- come together: [destination, batch, started at, depth, [number, item, …], data or null]. SEEN_AT_ONCE: destinations
-- read at a time; MOST_SEEN: destinations read once enough lanes are found; LANES_SEEN: lanes of a destination read at
-- a time; STALE_AT_ONCE: lanes of a destination whose score is corrected in one claim.
local SEEN_AT_ONCE, MOST_SEEN, LANES_SEEN, STALE_AT_ONCE = 64, 256, 128, 64

-- Call `act` with each destination of a worker and the lowest score of its lanes, for scores between `from` and `to`,
-- in order, until it returns true. `served`: the worker, the key of its list, the destinations looked up so far, the
-- suspects.
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

-- Correct the scores of lanes of a destination whose time has come. Returns how many were corrected.
local function promote(destination)
  local members = call('ZRANGEBYSCORE', P .. 'rd:' .. destination, 0, now, 'LIMIT', 0, SEEN_AT_ONCE)
  lanes.place_again(destination, members)
  return #members
end

-- The state of a flow key during one look at the lanes, cached by key in `of`.
local function known(of, key)
  local about = of[key]
  if not about then
    local score, delayed = lanes.score_of(key, now)
    about = { score = score, delayed = delayed, flow = flows.get(key) }
    about.free = not delayed and flows.admitted(about.flow, 1) > 0
    of[key] = about
  end
  return about
end

-- Add the lanes of a destination from which something may start now to those found, if their priority is `priority` and
-- so their score between `from` and `to`: all of them if they are few, else at least the `want` that are served first. Lanes whose key was served through other lanes have too low a score: a few
-- are corrected each time, so that they never hide a key that has waited longer, however many there are.
local function look_at(destination, want, found, from, to, priority)
  local shift = lanes.band_shift(priority)
  local before, offset, stale, latest, of = #found, 0, 0, -math.huge, {}
  local reply
  local function read()
    reply = call(
      'ZRANGEBYSCORE', P .. 'rd:' .. destination, from, to, 'WITHSCORES', 'LIMIT', offset, LANES_SEEN
    )
    return #reply == LANES_SEEN * 2
  end
  if read() and promote(destination) > 0 then read() end
  if #reply == 0 then lanes.mark_changed(destination) end
  while #reply > 0 do
    local moved, ahead, all = {}, {}, #reply < LANES_SEEN * 2
    for place = 1, #reply, 2 do
      local member, score = reply[place], tonumber(reply[place + 1]) + shift
      -- Lanes with a higher score are served later; but not lanes whose time has come.
      local behind = #found - before >= want and score < 0 and score >= latest
      if behind then
        all, found.cut = true, true
      end
      local key, group = lanes.parse_member(member)
      local about = not behind and known(of, key)
      if about and about.delayed then
        moved[#moved + 1] = member
      elseif about then
        if about.free then
          latest = math.max(latest, about.score)
          found[#found + 1] = {
            destination = destination, key = key, group = group, flow = about.flow, member = member,
            name = lanes.id(destination, key, group), priority = priority,
          }
        elseif score >= 0 then
          moved[#moved + 1] = member
        end
        if not lanes.is_in_place(score, about.score) then ahead[#ahead + 1] = member end
        offset = offset + 1
      end
    end
    if not all and stale < STALE_AT_ONCE and #ahead > 0 then
      for place = 1, math.min(#ahead, STALE_AT_ONCE - stale) do moved[#moved + 1] = ahead[place] end
      stale = stale + #ahead
      -- Their scores have changed: start over.
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

-- The same for lanes of all priorities. `first`: the destination's score in `rds`.
local function look_at_all(destination, first, want, found)
  if first < lanes.READY then
    found.raised = true
    lanes.each_band(destination, function(from, to, priority) look_at(destination, want, found, from, to, priority) end)
  end
  look_at(destination, want, found, lanes.READY, now, 0)
end

-- Of the lanes of each key, in order, those with its highest priority.
local function of_highest_priority(found)
  local highest, kept = {}, { cut = found.cut }
  for _, about in ipairs(found) do
    highest[about.key] = highest[about.key] or about.priority
    if about.priority == highest[about.key] then kept[#kept + 1] = about else kept.cut = true end
  end
  return kept
end

-- The order of lanes of one key with the same turn: the one with the earlier due message first.
local function is_due_before(one, other)
  for _, about in ipairs({ one, other }) do
    about.due = about.due or lanes.first_due(about.destination, about.key, about.group) or NEVER
  end
  if one.due ~= other.due then return one.due < other.due end
  return one.name < other.name
end

-- Lanes from which something may start now: keys that were served longest ago first, and so for the lanes of each key
-- that have its highest priority. As many as `limit` claims need; `cut` is set if there may be more.
local function ready_lanes(served, limit)
  local want = math.min(limit, LANES_LIMIT + 1)
  local found, seen, looked = { cut = false, latest = -math.huge }, 0, {}
  local function look(destination, first)
    seen = seen + 1
    local enough = #found >= want
    local later = enough and first >= found.latest
    if later then found.cut = true end
    looked[destination] = true
    if not later or promote(destination) > 0 then look_at_all(destination, first, want, found) end
    found.many = seen >= SEEN_AT_ONCE
    if not enough or not found.many then return false end
    found.cut = true
    return later or seen >= MOST_SEEN
  end
  each_destination(served, '-inf', now, look)
  if found.raised and seen >= MOST_SEEN then
    -- Raised lanes come first and never hide the keys that only others have.
    seen = 0
    each_destination(served, lanes.READY, now, look)
  end
  if seen >= SEEN_AT_ONCE then
    -- A message that has become due may belong to the key that has waited longest, whatever its destination's score.
    seen = 0
    each_destination(served, 0, now, function(destination)
      if looked[destination] then return false end
      look_at_all(destination, 0, want, found)
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
    if one.priority ~= other.priority then return one.priority > other.priority end
    if one.turn ~= other.turn then return one.turn < other.turn end
    return one ~= other and is_due_before(one, other)
  end)
  return found.raised and of_highest_priority(found) or found
end

local SUSPECTS, DUE_AT_ONCE = 100, 64

-- Release messages of a claim whose answer was lost. False if a later claim was carried out already: this one was
-- delayed on its way, and nobody waits for it.
local function release_lost(worker, token, acknowledged)
  local kept = call('GET', P .. 'wc:' .. worker)
  if not kept then return true end
  local store, latest, ids = unpack(cjson.decode(kept))
  if store ~= STORE or latest <= acknowledged then return true end
  if token <= latest then return false end
  for _, id in ipairs(ids) do
    local message = messages.load(id)
    if message and message.o == worker then messages.reclaim(id, message, false) end
  end
  call('DEL', P .. 'wc:' .. worker)
  batches.end_finished()
  return true
end

-- Release messages that the worker has settled in a write that the server has lost.
local function release_settled(worker, held)
  local known = {}
  for _, id in ipairs(held) do known[id] = true end
  for _, id in ipairs(call('HKEYS', workers.claims_key(worker))) do
    local message = not known[id] and messages.load(id)
    if message and message.o == worker then messages.reclaim(id, message, false) end
  end
  batches.end_finished()
end

-- Set the list of destinations of a worker. False if the server does not know the list and `destinations` is null.
function workers.serve(worker, list, destinations)
  if not workers.is_list_used(list) then
    destinations = or_nil(destinations)
    if not destinations then return false end
    local key = P .. 'ds:' .. list
    call('DEL', key)
    in_slices(destinations, function(part) call('SADD', key, unpack(part)) end)
    for _, destination in ipairs(destinations) do
      -- Lanes written by a version without `rds` are added to it.
      if call('ZCARD', P .. 'rd:' .. destination) > 0 then lanes.mark_changed(destination) end
    end
  end
  workers.drop_list(worker)
  call('HSET', P .. 'wl', worker, list)
  return true
end

-- What a claim shows of a message: its fields, its batch, and the data of its item.
local function read_message(id)
  local fields = call('HMGET', P .. 'm:' .. id, 'f', 'y', 'b', 'n', 'i', 'x', 'l', 'h', 'r', 'st', 'dp', 'd', 'wt')
  local data
  if fields[5] then
    fields[3], fields[4], fields[12] = string.sub(id, 1, -12), string.sub(id, -9), true
    local of = batches.get(fields[3])
    fields[8] = of and of.hd or false
    if of and of.dd == '1' then data = call('HGET', items.data(fields[3], tonumber(fields[4])), tonumber(fields[4])) end
  end
  return fields, fields[3] and batches.get(fields[3]), data
end

local function claim_row(id, destination, fields, batch, data, fence, started, journal)
  return {
    id, fence, destination, fields[2] or 'null', or_null(fields[3]), tonumber(fields[4] or -1), fields[5] or '',
    tonumber(fields[6] or 0), tonumber(fields[7] or 0), or_null(fields[8]), or_null(fields[9]), journal, started,
    batch and batch.dp or tonumber(fields[11] or 0), or_null(data),
  }
end

local function lease_message(worker, id, about)
  local key = P .. 'm:' .. id
  local fields, batch, data = read_message(id)
  if not fields[12] or (batch and batch.s == 'cancelling') then return nil end
  local fence, started, journal = tonumber(fields[1] or 0) + 1, tonumber(fields[10] or now), NULL
  call('HSET', key, 'o', worker, 'f', fence, 'st', started)
  if fields[13] then
    call('HDEL', key, 'wt')
    if fields[5] then batches.count_waiting(batch, tonumber(fields[13]), -1) end
  end
  if fence > 1 then
    local found = steps.of(to_table(call('HGETALL', key)))
    if #found > 0 or call('EXISTS', P .. 'a:' .. id) == 1 then
      local woken
      found, woken = steps.apply_arrivals(id, found)
      if woken then fields[6], fields[7] = 0, 0 end
      journal = steps.text(found)
    end
  end
  return claim_row(id, about.destination, fields, batch, data, fence, started, journal)
end

local function lease_items(worker, member, about, want, taken)
  local open_items, name, batch = lanes.take_items(about.lane, member, want)
  local rows, data, parent = {}, NULL, nested.parent(about.group)
  for place, one in ipairs(open_items) do
    local number, item = one[1], one[2]
    local id = string.format('%s.r%09d', name, number)
    call('HSET', P .. 'm:' .. id, 'i', item, 'o', worker, 'f', '1', 't', NOW, 'st', NOW)
    if parent then call('HSET', P .. 'm:' .. id, 'k', about.key, 'pa', parent) end
    taken.add(id, parent and '!' or '=' .. item)
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

-- Lease these messages of a lane. Returns how many.
local function lease_all(worker, about, ids, from, taken)
  local count = 0
  for _, id in ipairs(ids) do
    local claim = lease_message(worker, id, about)
    if claim then
      taken.claims[#taken.claims + 1] = claim
      taken.add(id, '!')
      count = count + 1
    end
  end
  in_slices(ids, function(part) call('ZREM', from, unpack(part)) end)
  return count
end

-- Lease up to `want` fresh messages of a lane, by id. Returns how many.
local function take_fresh(worker, about, want, taken)
  local later = call('ZRANGEBYSCORE', about.lane, '(0', now, 'LIMIT', 0, CHUNK)
  -- Messages that were not due before take their place by id.
  for _, id in ipairs(later) do call('ZADD', about.lane, 0, id) end
  local count = 0
  while count < want do
    local found = call('ZRANGEBYSCORE', about.lane, 0, 0, 'LIMIT', 0, want - count)
    if #found == 0 then break end
    local ids = {}
    for _, member in ipairs(found) do
      if lanes.parse_range(member) then
        -- Messages before the range are leased before it.
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

-- Lease up to `want` messages of one lane: started ones by due time, and fresh ones. Returns how many of each.
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

-- One round over the ready lanes. Returns how many messages were leased, whether another round may find more, and whether
-- it may also if nothing was leased.
local function round(served, limit, taken)
  local found = ready_lanes(served, limit)
  local count, leased, moved = math.min(#found, LANES_LIMIT), 0, false
  local more = found.cut or #found > LANES_LIMIT
  for place = 1, count do
    local about = found[place]
    local share = math.min(math.max(1, math.floor((limit - leased) / (count - place + 1))), limit - leased)
    local want = flows.admitted(about.flow, share)
    if want > 0 and about.group == nested.MARK then
      local got, stale = nested.take(served.worker, about, want, taken, take_from)
      if got > 0 then lanes.set_served(about.name, flows.take(about.flow, got, taken.ids[#taken.ids]), 0) end
      nested.recount(about.destination, about.key)
      leased = leased + got
      -- Below them there may be others with a lower priority.
      moved, more = moved or stale, more or got > 0 or stale
    elseif want > 0 then
      about.lane = lanes.fresh(about.destination, about.key, about.group)
      local started, fresh = take_from(served.worker, about, want, taken)
      local got = started + fresh
      if got > 0 then
        lanes.set_served(about.name, flows.take(about.flow, got, taken.ids[#taken.ids]), lanes.ahead(about.ahead, started, fresh))
      end
      lanes.recount(about.destination, about.key, about.group)
      leased = leased + got
      more = more or got == share
    elseif select(2, lanes.score_of(about.key, now)) then
      -- Another lane of its key has taken the free start time.
      lanes.place_again(about.destination, { about.member })
    end
    if leased >= limit then break end
  end
  return leased, more, moved
end

-- Call `act` with each message that waits to be claimed alone and whose lane is open, the earliest first, until it
-- returns true: id, message, flow, due time.
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

-- Lease the suspect that is due first. Returns whether there was one.
local function take_suspect(served, taken)
  local leased = false
  each_suspect(served, function(id, message, flow, due)
    local parent = message.pa and flows.get_or_make(message.pa)
    if due > now or flows.admitted(flow, 1) == 0 or parent and flows.admitted(parent, 1) == 0 then return due > now end
    leased = lease_all(served.worker, { destination = message.d }, { id }, P .. 'sus', taken) == 1
    if leased then
      if parent then flows.take(parent, 1, id) end
      flows.take(flow, 1, id)
      call('HSET', P .. 'wa', served.worker, id)
    end
    return leased
  end)
  return leased
end

-- When a waiting message may start next, as far as only time decides.
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
  each_suspect(served, function(_, message, flow, due)
    local parent = message.pa and flows.get_or_make(message.pa)
    if not parent then
      look(flow, due)
    elseif not flows.is_full(parent) then
      look(flow, math.max(due, flows.opens_at(parent)))
    end
  end)
  return earliest < NEVER and earliest or NULL
end

local function parameters(claims)
  local found = {}
  for _, claim in ipairs(claims) do
    -- The batch is the fifth field of a message, the second of a group of items.
    local batch = type(claim[5]) == 'table' and claim[2] or claim[5]
    if batch ~= NULL and not found[batch] then found[batch] = call('GET', P .. 'p:' .. batch) or 'null' end
  end
  return found
end

-- Collects what one claim leases: the claims, their ids, and the fields of the worker's hash.
local function new_collection()
  local taken = { claims = {}, ids = {}, worker_fields = {}, headers = {} }
  function taken.add(id, how)
    taken.ids[#taken.ids + 1] = id
    taken.worker_fields[#taken.worker_fields + 1] = id
    taken.worker_fields[#taken.worker_fields + 1] = how
  end
  return taken
end

verbs.claim = function(worker, list, destinations, limit, token, acknowledged, held)
  if limit < 1 then return { {}, NULL, {}, now } end
  -- Nothing is stored for a worker that is not registered any more.
  if call('HGET', P .. 'wl', worker) ~= list then
    if not call('ZSCORE', P .. 'workers', worker) then return { {}, NULL, {}, now } end
    if not workers.serve(worker, list, destinations) then return nil end
  end
  if not release_lost(worker, token, acknowledged) then return { {}, NULL, {}, now } end
  if or_nil(held) then release_settled(worker, held) end
  if workers.suspect_of(worker) then return { {}, now + ALONE_MS, {}, now } end
  if state.next_end and state.next_end <= now then flows.undo_ended() end
  if state.claimed_at > now + SKEW_MS then lanes.place_all_held_back() end
  lanes.flush()
  local taken, left, more = new_collection(), limit, false
  local served = { worker = worker, list = P .. 'ds:' .. list, known = {} }
  local alone = take_suspect(served, taken)
  if alone then
    left = limit - 1
  else
    local count, moved
    repeat
      count, more, moved = round(served, left, taken)
      left = left - count
    until not more or count == 0 and not moved or left == 0
  end
  in_slices(taken.worker_fields, function(part) call('HSET', workers.claims_key(worker), unpack(part)) end)
  -- An earlier claim whose answer is unknown may still be on its way.
  if left < limit or acknowledged < token - 1 then
    call('SET', P .. 'wc:' .. worker, cjson.encode({ STORE, token, taken.ids }))
  end
  local due = alone and now + ALONE_MS or (left == 0 or more) and now or next_due(served)
  if state.next_end and (due == NULL or state.next_end < due) then due = state.next_end end
  return { taken.claims, due, parameters(taken.claims), now, taken.headers }
end

-- claim_one: leases the message with this fence, whatever its due time and the limits of its keys, from the worker that
-- holds it if there is one. One that waits and may not start now is due at once. A worker that holds it with the next fence
-- gets its claim again. The answer is as claim's.
local function flows_of(message)
  local found = {}
  for _, key in ipairs({ message.k, message.pa }) do found[#found + 1] = flows.get_or_make(key) end
  return found
end

local function may_start(id, message)
  for _, flow in ipairs(flows_of(message)) do
    if flows.is_paused(flow) or flow.pk > now then return false end
  end
  return not lanes.is_closed(lanes.group(id, message))
end

local function lease_one(worker, id, message)
  local claim = lease_message(worker, id, { destination = message.d })
  if not claim then return nil end
  if message.o then
    call('HDEL', workers.claims_key(message.o), id)
  else
    for _, flow in ipairs(flows_of(message)) do flows.take_slots(flow, 1, id) end
    lanes.dequeue(id, message)
  end
  call('HSET', workers.claims_key(worker), id, '!')
  return claim
end

-- The claim that a worker holds. Nothing that has come since becomes a recorded entry.
local function held_claim(id, message)
  local fields, batch, data = read_message(id)
  local journal = steps.text(steps.of(to_table(call('HGETALL', P .. 'm:' .. id))))
  return claim_row(id, message.d, fields, batch, data, message.f, tonumber(message.st), journal)
end

verbs.claim_one = function(worker, id, fence)
  local claims = {}
  local message = call('ZSCORE', P .. 'workers', worker) and (messages.load(id) or fence == 0 and items.add_message(id))
  if message and message.o == worker and message.f == fence + 1 then
    claims[1] = held_claim(id, message)
  elseif message and message.f == fence then
    if message.o or may_start(id, message) then
      claims[1] = lease_one(worker, id, message)
    else
      call('HSET', P .. 'm:' .. id, 'u', 0)
      lanes.enqueue(id, message, 0)
    end
  end
  return { claims, NULL, parameters(claims), now }
end
