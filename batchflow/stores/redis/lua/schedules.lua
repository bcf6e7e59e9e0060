-- Schedules: a hash each. Fields: d: destination, w: expression and time zone, y: the definition as JSON, v: version, pz:
-- paused, t: made at, nx: next fire, la, li: time and work of the latest fire, f, s: fires that started work and that were
-- skipped, sa: skipped at, q: the fire that waits for the end of the previous one, e: error of the latest fire.

local function key_of(id) return P .. 'sc:' .. id end

local function load_schedule(id)
  local found = to_table(call('HGETALL', key_of(id)))
  return found.d and found
end

local function schedule_row(found)
  return row_of(SCHEDULE_COLUMNS, {
    text = found.y, version = tonumber(found.v), paused = found.pz == '1', created_at = tonumber(found.t),
    next_at = tonumber(found.nx), last_at = tonumber(found.la), last_id = found.li, fires = tonumber(found.f),
    skips = tonumber(found.s), skipped_at = tonumber(found.sa), queued_at = tonumber(found.q), error = found.e,
  })
end

-- Change fields of a schedule, with a new version; false removes a field.
local function change(id, fields)
  for field, value in pairs(fields) do
    if value then
      call('HSET', key_of(id), field, type(value) == 'number' and string.format('%.0f', value) or value)
    else
      call('HDEL', key_of(id), field)
    end
  end
  call('HINCRBY', key_of(id), 'v', 1)
  local next_at, paused, queued = unpack(call('HMGET', key_of(id), 'nx', 'pz', 'q'))
  if next_at and paused ~= '1' then call('ZADD', P .. 'scn', next_at, id) else call('ZREM', P .. 'scn', id) end
  if queued and paused ~= '1' then call('SADD', P .. 'scq', id) else call('SREM', P .. 'scq', id) end
end

-- put_schedule: adds a schedule, or replaces its definition; the time of its next fire stays with its expression.
verbs.put_schedule = function(id, destination, timing, text, next_at)
  local known = load_schedule(id)
  next_at = or_nil(next_at) or false
  if not known then
    call('HSET', key_of(id), 'v', NOW, 't', NOW, 'f', 0, 's', 0)
    call('ZADD', P .. 'scs', 0, id)
    change(id, { d = destination, w = timing, y = text, nx = next_at })
  elseif known.y ~= text then
    if known.w == timing then next_at = known.nx or false end
    change(id, { d = destination, w = timing, y = text, nx = next_at })
  end
  return schedule_row(load_schedule(id))
end

verbs.plan_schedule = function(id, version, next_at)
  local known = load_schedule(id)
  if not known or tonumber(known.v) ~= version then return false end
  change(id, { nx = or_nil(next_at) or false })
  return true
end

verbs.pause_schedule = function(id)
  local known = load_schedule(id)
  if not known or known.pz == '1' then return false end
  change(id, { pz = '1' })
  return true
end

verbs.resume_schedule = function(id, next_at)
  local known = load_schedule(id)
  if not known or known.pz ~= '1' then return false end
  change(id, { pz = false, nx = or_nil(next_at) or false })
  return true
end

verbs.delete_schedule = function(id)
  if call('DEL', key_of(id)) == 0 then return false end
  call('ZREM', P .. 'scs', id)
  call('ZREM', P .. 'scn', id)
  call('SREM', P .. 'scq', id)
  return true
end

-- Start the work of a fire. Returns the outcome.
local function start(known, at, batch, messages_of, queue)
  local first = batch or messages_of[1]
  if not first then return 'failed' end
  local place = batch and BATCH or MESSAGE
  if batch then
    if verbs.open_batch(batch, messages_of) then return 'fired' end
  elseif messages.publish(first) then
    notify_stores()
    return 'fired'
  end
  local dedup = or_nil(first[place.open_dedup])
  local under_way = dedup and call('HGET', P .. 'dk', dedup)
  if not under_way or under_way == first[place.id] then return 'repeated' end
  return queue and (not known.q or tonumber(known.q) == at) and 'queued' or 'skipped'
end

-- fire_schedule: starts the work of a fire and sets the time of the next one, unless the schedule has changed since it
-- had this version. The answer: [outcome, the schedule or null].
verbs.fire_schedule = function(id, version, at, next_at, batch, messages_of, error, queue)
  local known = load_schedule(id)
  if not known then return { 'stale', NULL } end
  if tonumber(known.v) ~= version then return { 'stale', schedule_row(known) } end
  batch = or_nil(batch)
  local outcome = start(known, at, batch, messages_of, queue)
  local changes = { nx = or_nil(next_at) or false }
  if outcome == 'fired' then
    changes.la, changes.li, changes.f, changes.e = at, (batch or messages_of[1])[(batch and BATCH or MESSAGE).id], known.f + 1, false
  elseif outcome == 'skipped' then
    changes.sa, changes.s = at, known.s + 1
  elseif outcome == 'queued' then
    changes.q = at
  elseif outcome == 'failed' then
    changes.e = error
  end
  if outcome ~= 'queued' and tonumber(known.q) == at then changes.q = false end
  change(id, changes)
  return { outcome, schedule_row(load_schedule(id)) }
end

-- due_schedules: those of these destinations that are due, by time, and those whose queued fire nothing under way holds
-- back any more. The answer: [schedules, time of the next one, number of queued ones, now].
reads.due_schedules = function(destinations, limit)
  local served, due, next_at, queued, seen = {}, {}, nil, 0, {}
  for _, destination in ipairs(destinations) do served[destination] = true end
  local function add(id, found)
    if #due < limit and not seen[id] then due[#due + 1] = schedule_row(found) end
    seen[id] = true
  end
  for _, id in ipairs(call('ZRANGE', P .. 'scn', 0, -1)) do
    local destination, nx = unpack(call('HMGET', key_of(id), 'd', 'nx'))
    if served[destination] then
      next_at = next_at or tonumber(nx)
      if tonumber(nx) > now then break end
      add(id, load_schedule(id))
    end
  end
  for _, id in ipairs(call('SMEMBERS', P .. 'scq')) do
    local found = load_schedule(id)
    if served[found.d] then
      queued = queued + 1
      if call('HEXISTS', P .. 'dk', SCHEDULE_KEY .. id) == 0 then add(id, found) end
    end
  end
  return { due, or_null(next_at), queued, now }
end

-- schedule: a schedule. schedules: those after an id, in the order of ids.
reads.schedule = function(id)
  local found = load_schedule(id)
  return found and schedule_row(found) or NULL
end

reads.schedules = function(after, limit)
  local rows = {}
  local first = after == '' and '-' or '(' .. after
  for _, id in ipairs(call('ZRANGE', P .. 'scs', first, '+', 'BYLEX', 'LIMIT', 0, limit)) do
    rows[#rows + 1] = schedule_row(load_schedule(id))
  end
  return rows
end
