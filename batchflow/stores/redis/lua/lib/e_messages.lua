-- Messages: one hash each, which stays where the run is kept or dead. An item has one from its first claim on, without
-- d, k, b and n, which its batch and its id tell.
-- Fields: d, k: destination and flow key, u: due, o: the worker that holds it, f: fence, x: failures, l: losses,
-- c: cancelled, b, n: batch and number, i: item, kp: kept when it has ended, t, st: made and started at, y: body,
-- h: headers, r: retry, e: error, L: label, p, ps, dp: parent, its step, depth, ln: its end has more to clear away,
-- s<number>: steps; of an ended one z: how it ended, za: when, v: its result.
local FIELDS = {
  'd', 'k', 'u', 'o', 'f', 'x', 'l', 'c', 'b', 'n', 'i', 'kp', 't', 'st', 'e', 'L', 'p', 'ps', 'ln', 'dp', 'z',
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

-- A message that has not ended.
function messages.load(id)
  if buffer.gone[id] then return nil end
  local reply = call('HMGET', P .. 'm:' .. id, unpack(FIELDS))
  if not (reply[1] or reply[11]) or reply[21] then return nil end
  local found = {}
  for place, field in ipairs(FIELDS) do found[field] = reply[place] or nil end
  found.f, found.x, found.l = tonumber(found.f or 0), tonumber(found.x or 0), tonumber(found.l or 0)
  found.n = tonumber(found.n or -1)
  return messages.complete(id, found)
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
  flows.declare(about.flow)
  local key, id = about.flow[1], about.id
  local fields = { 'd', about.d, 'k', key, 'u', about.u, 't', NOW }
  for _, field in ipairs({ 'b', 'y', 'h', 'r', 'L', 'p', 'ps' }) do
    if about[field] then
      fields[#fields + 1] = field
      fields[#fields + 1] = about[field]
    end
  end
  if about.kp then
    fields[#fields + 1] = 'kp'
    fields[#fields + 1] = 1
  end
  if about.dp and about.dp > 0 then
    fields[#fields + 1] = 'dp'
    fields[#fields + 1] = about.dp
  end
  call('HSET', P .. 'm:' .. id, unpack(fields))
  lanes.add(about.d, key, id, about.u)
  if about.b then
    call('SADD', P .. 'bm:' .. about.b, id)
    batches.add(batches.get(about.b), 'wk', 1)
  end
  if about.kp then
    call('ZADD', P .. 'runs', now, id)
    call('ZADD', P .. 'od:' .. about.d, now, id)
  end
  if about.L then call('ZADD', P .. 'ol:' .. about.L, now, id) end
  if about.p then call('SADD', P .. 'kids:' .. about.p, id) end
end

-- [id, destination, flow, body, headers, retry, not before, batch, keep, label, parent, its step, depth]; whether new.
function messages.publish(wire)
  local id, batch, parent = wire[1], opt(wire[8]), opt(wire[11])
  if parent then waiting.link(parent) end
  if call('EXISTS', P .. 'm:' .. id) == 1 then return false end
  if batch and not batches.takes(batches.get(batch)) then return false end
  messages.add({
    id = id, d = wire[2], flow = wire[3], y = opt(wire[4]), h = opt(wire[5]), r = opt(wire[6]),
    u = math.max(wire[7], now), b = batch, kp = wire[9], L = opt(wire[10]), p = parent, ps = opt(wire[12]), dp = wire[13],
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
  lanes.add(message.d, message.k, id, due)
  flows.give_back(message.k)
  message.o, message.e, message.u = nil, error, due
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
local LOSS_LIMIT = 10
function messages.take_back(id, message, lost)
  local losses = message.l + (lost and 1 or 0)
  if messages.is_cancelled(message) then
    ending.finish(id, message, { how = 'cancelled' })
  elseif lost and losses >= LOSS_LIMIT then
    local error = 'WorkerLost: ' .. losses .. ' workers in a row died or hung while they ran it'
    -- No failure of its own: the one that ends it was the workers'.
    ending.finish(id, message, { how = 'dead', error = error, failures = message.x })
  else
    messages.give_back(id, message, now, message.x, losses, nil)
  end
end

function messages.take_back_all(worker, lost)
  local ids = call('HKEYS', P .. 'w:' .. worker)
  table.sort(ids)
  local count = 0
  for _, id in ipairs(ids) do
    local message = messages.load(id)
    if message and message.o == worker then
      messages.take_back(id, message, lost)
      count = count + 1
    end
  end
  call('ZREM', P .. 'workers', worker)
  call('HDEL', P .. 'wi', worker)
  call('DEL', P .. 'w:' .. worker, P .. 'wc:' .. worker)
  return count
end
