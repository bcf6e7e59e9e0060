-- Messages: one hash each, which stays where the run is kept or dead. An item has one from its first claim on, without
-- d, k, b and n, which its batch and its id tell.
-- Fields: d, k: destination and flow key, u: due, o: the worker that holds it, f: fence, x: failures, l: losses,
-- c: cancelled, b, n: batch and number, i: item, kp: kept when it has ended, t, st: made and started at, y: body,
-- h: headers, r: retry, e: error, L: label, p, ps, dp: parent, its step, depth, ln: its end has more to clear away,
-- of: who is told of its death, od: what holds others off while it has not ended, he: held back until its batch is
-- walked, s<number>: steps; of an ended one z: how it ended, za: when, v: its result. `u` is 0 for at once.
local FIELDS = {
  'd', 'k', 'u', 'o', 'f', 'x', 'l', 'c', 'b', 'n', 'i', 'kp', 't', 'st', 'e', 'L', 'p', 'ps', 'ln', 'dp', 'z',
  'of', 'od', 'he',
}

function messages.key(id) return P .. 'm:' .. id end

-- What the id of an item's run tells of it, where `found` is one.
function messages.complete(id, found)
  if found.i and not found.b then
    found.b, found.n = string.sub(id, 1, -12), tonumber(string.sub(id, -9))
    local batch = batches.get(found.b)
    found.d, found.k = batch.d, batch.k
  end
  return found
end

local function numbered(id, found)
  found.f, found.x, found.l = tonumber(found.f or 0), tonumber(found.x or 0), tonumber(found.l or 0)
  found.n = tonumber(found.n or -1)
  return messages.complete(id, found)
end

-- A message that has not ended.
function messages.load(id)
  if buffer.gone[id] then return nil end
  local reply = call('HMGET', P .. 'm:' .. id, unpack(FIELDS))
  if not (reply[1] or reply[11]) or reply[21] then return nil end
  local found = {}
  for place, field in ipairs(FIELDS) do found[field] = reply[place] or nil end
  return numbered(id, found)
end

-- A dead letter.
function messages.load_dead(id)
  local reply = call('HMGET', P .. 'm:' .. id, unpack(FIELDS))
  if reply[21] ~= 'dead' then return nil end
  local found = {}
  for place, field in ipairs(FIELDS) do found[field] = reply[place] or nil end
  return numbered(id, found)
end

-- The message behind a claim, if it is still held with this fence.
function messages.held(id, fence)
  local found = messages.load(id)
  if not found or not found.o or found.f ~= fence then return nil end
  return found
end

-- The same of an item that has gone smoothly so far, with what its end needs; nil where more has to be known.
function messages.held_item(id, fence)
  if buffer.gone[id] then return nil end
  local reply = call('HMGET', P .. 'm:' .. id, 'i', 'o', 'f', 'c', 'ln')
  if not reply[1] or not reply[2] or reply[4] or reply[5] or tonumber(reply[3]) ~= fence then return nil end
  local name = string.sub(id, 1, -12)
  local batch = batches.get(name)
  if batch.s == 'cancelling' then return nil end
  return { i = reply[1], o = reply[2], b = name, n = tonumber(string.sub(id, -9)), d = batch.d, k = batch.k }
end

function messages.is_cancelled(message) return message.c or batches.is_cancelling(message.b) end

-- Store a message whose id is new, and let it wait.
function messages.add(about)
  flows.follow(about.flow)
  local key, id = about.flow[LIMITS.key], about.id
  local fields = { 'd', about.d, 'k', key, 'u', about.u, 't', NOW }
  for _, field in ipairs({ 'b', 'y', 'h', 'r', 'L', 'p', 'ps', 'of', 'od' }) do
    if about[field] then
      fields[#fields + 1] = field
      fields[#fields + 1] = about[field]
    end
  end
  if about.kp then
    fields[#fields + 1] = 'kp'
    fields[#fields + 1] = 1
  end
  if about.he then
    fields[#fields + 1] = 'he'
    fields[#fields + 1] = 1
  end
  if about.dp and about.dp > 0 then
    fields[#fields + 1] = 'dp'
    fields[#fields + 1] = about.dp
  end
  call('HSET', P .. 'm:' .. id, unpack(fields))
  flows.add(key, 'w', 1)
  lanes.put(id, { d = about.d, k = key, b = about.b, he = about.he, f = 0, l = 0 }, about.u)
  if about.b then
    call('SADD', P .. 'bm:' .. about.b, id)
    batches.add(batches.get(about.b), 'wk', 1)
  end
  if about.kp then call('ZADD', P .. 'runs', now, id) end
  if about.od then call('HSET', P .. 'dk', about.od, id) end
  messages.open_index(id, { d = about.d, kp = about.kp, L = about.L, p = about.p, t = now })
end

-- It is found by those who look for what has not ended.
function messages.open_index(id, message)
  if message.kp then call('ZADD', P .. 'od:' .. message.d, message.t, id) end
  if message.L then call('ZADD', P .. 'ol:' .. message.L, message.t, id) end
  if message.p then call('SADD', P .. 'kids:' .. message.p, id) end
end

-- Take a waiting message of a batch's layers away, as if it had never been.
function messages.remove(id, message)
  flows.add(message.k, 'w', -1)
  lanes.drop(id, message)
  call('DEL', P .. 'm:' .. id)
  call('SREM', P .. 'bm:' .. message.b, id)
  batches.add(batches.get(message.b), 'wk', -1)
  if message.p then call('SREM', P .. 'kids:' .. message.p, id) end
end

-- Whether it is new.
function messages.publish(wire)
  local id, batch, parent, dedup = wire[MESSAGE.id], opt(wire[MESSAGE.batch]), opt(wire[MESSAGE.parent]), opt(wire[MESSAGE.open_dedup])
  if parent then waiting.link(parent) end
  if call('EXISTS', P .. 'm:' .. id) == 1 then return false end
  if batch and not batches.takes(batches.get(batch)) then return false end
  if dedup and call('HEXISTS', P .. 'dk', dedup) == 1 then return false end
  messages.add({
    id = id, d = wire[MESSAGE.destination], flow = wire[MESSAGE.flow], y = opt(wire[MESSAGE.body]),
    h = opt(wire[MESSAGE.headers]), r = opt(wire[MESSAGE.retry]),
    u = wire[MESSAGE.not_before] > now and wire[MESSAGE.not_before] or 0, b = batch, kp = wire[MESSAGE.keep] or nil,
    L = opt(wire[MESSAGE.label]), p = parent, ps = opt(wire[MESSAGE.parent_step]), dp = wire[MESSAGE.depth],
    of = opt(wire[MESSAGE.on_failure]), od = dedup, he = wire[MESSAGE.held] or nil,
  })
  return true
end

-- Let a message wait again that a worker held.
function messages.give_back(id, message, due, failures, losses, error)
  local key = P .. 'm:' .. id
  local fields = { 'u', due, 'x', failures, 'l', losses }
  if error then
    fields[7], fields[8] = 'e', error
    call('HDEL', key, 'o')
  else
    call('HDEL', key, 'o', 'e')
  end
  call('HSET', key, unpack(fields))
  call('HDEL', P .. 'w:' .. message.o, id)
  flows.add(message.k, 'w', 1)
  message.o, message.e, message.u, message.x, message.l = nil, error, due, failures, losses
  lanes.put(id, message, due)
  flows.give_back(message.k)
end

-- A leased message ends at its next step.
function messages.cancel_leased(id, message)
  call('HSET', P .. 'm:' .. id, 'c', 1)
  call('HSET', P .. 'w:' .. message.o, id, '!')
  messages.close_index(id, message)
end

-- It is not to be found by those who look for what has not ended.
function messages.close_index(id, message)
  if message.kp then call('ZREM', P .. 'od:' .. message.d, id) end
  if message.L then call('ZREM', P .. 'ol:' .. message.L, id) end
end

-- Take a claim back from its worker, as a loss or as if it had not been claimed.
function messages.take_back(id, message, lost)
  local losses = message.l + (lost and 1 or 0)
  if messages.is_cancelled(message) then
    ending.finish(id, message, { how = 'cancelled' })
  elseif lost and losses >= LOSS_LIMIT then
    local error = string.format(WORKER_LOST, losses)
    -- No failure of its own: the one that ends it was the workers'.
    ending.finish(id, message, { how = 'dead', error = error, failures = message.x, losses = losses })
  else
    local wait = lost and losses >= SUSPECT_LOSSES and LOSS_WAITS_MS[math.min(losses - SUSPECT_LOSSES + 1, #LOSS_WAITS_MS)]
    messages.give_back(id, message, wait and now + wait or 0, message.x, losses, nil)
  end
end

-- The message that a worker holds and that was claimed alone, as long as it has recorded nothing.
function messages.alone_of(worker)
  local id = call('HGET', P .. 'wa', worker)
  local message = id and messages.load(id)
  if message and message.o == worker and lanes.is_suspect(message) then return id end
  if id then call('HDEL', P .. 'wa', worker) end
  return nil
end

-- A dead letter waits again, due at once; false where there is none, or its batch does not take it.
function messages.redrive(id)
  local message = messages.load_dead(id)
  if not message then return false end
  local batch = message.b and batches.get(message.b)
  if message.b and not (batch and batches.reopen(batch, message)) then return false end
  local key, gone = P .. 'm:' .. id, { 'z', 'za', 'e', 'v', 'c' }
  local latest, failed = 0, nil
  for _, step in ipairs(steps.of(record_of(call('HGETALL', key)))) do
    local about = cjson.decode(step[2])
    if about[STEP.state] == 'pending' then gone[#gone + 1] = 's' .. step[1] end
    if about[STEP.state] == 'failed' and about[STEP.position] > latest then
      latest, failed = about[STEP.position], 's' .. step[1]
    end
  end
  -- It is asked for anew.
  gone[#gone + 1] = failed
  call('HDEL', key, unpack(gone))
  call('HSET', key, 'u', 0, 'x', 0, 'l', 0)
  call('ZREM', P .. 'dead', id)
  if message.b then call('ZREM', P .. 'bd:' .. message.b, id) end
  if batch and message.n < 0 then call('SADD', P .. 'bm:' .. message.b, id) end
  if not message.kp then call('ZREM', P .. 'runs', id) end
  if message.od then call('HSETNX', P .. 'dk', message.od, id) end
  messages.open_index(id, message)
  message.x, message.l = 0, 0
  flows.add(message.k, 'dl', -1)
  flows.add(message.k, 'w', 1)
  lanes.put(id, message, 0)
  return true
end

-- Whether any worker serves a list of destinations.
function messages.is_served(list)
  for _, one in pairs(record_of(call('HGETALL', P .. 'wl'))) do
    if one == list then return true end
  end
  return false
end

-- A worker serves its list no more, which goes with the last one that does.
function messages.leave_list(worker)
  local list = call('HGET', P .. 'wl', worker)
  if not list then return end
  call('HDEL', P .. 'wl', worker)
  if not messages.is_served(list) then call('DEL', P .. 'ds:' .. list) end
end

-- All that a worker holds. Where that is one that is claimed alone too, only that one counts as lost.
function messages.take_back_all(worker, lost)
  local ids = call('HKEYS', P .. 'w:' .. worker)
  table.sort(ids)
  local count, alone = 0, lost and messages.alone_of(worker)
  for _, id in ipairs(ids) do
    local message = messages.load(id)
    if message and message.o == worker then
      messages.take_back(id, message, lost and (not alone or id == alone))
      count = count + 1
    end
  end
  call('ZREM', P .. 'workers', worker)
  call('HDEL', P .. 'wi', worker)
  call('HDEL', P .. 'wa', worker)
  call('DEL', P .. 'w:' .. worker, P .. 'wc:' .. worker)
  messages.leave_list(worker)
  return count
end
