-- Events, webhooks and ended children that runs wait for, and their delivery as arrivals.
local function listener(run, number) return string.format('%s\1%09d', run, number) end

-- Record that a run waits for something, so that its end clears that away.
function events.mark_waiting(run)
  local message = messages.load(run)
  if not message then return end
  call('HSET', P .. 'm:' .. run, 'ln', 1)
  if message.o then call('HSET', P .. 'w:' .. message.o, run, '!') end
end

-- Keep an arrival for a waiting step until a claim records it. A suspended run is due at once.
function events.add_arrival(run, number, how, value, error)
  local message = messages.load(run)
  if not message then return end
  local step = call('HGET', P .. 'm:' .. run, 's' .. number)
  if not step or cjson.decode(step)[STEP.state] ~= 'pending' then return end
  call('RPUSH', P .. 'a:' .. run, cjson.encode({ number, how, or_null(value), or_null(error), now }))
  if not message.o and not message.e and tonumber(message.u) > now then
    call('HSET', P .. 'm:' .. run, 'u', 0)
    lanes.enqueue(run, message, 0)
  end
end

-- The steps that wait for an event, longest first: { run, number }, …
function events.listeners(event)
  local found = {}
  for _, member in ipairs(call('ZRANGE', P .. 'e:' .. event, 0, -1)) do
    local cut = string.find(member, '\1', 1, true)
    local run, number = string.sub(member, 1, cut - 1), tonumber(string.sub(member, cut + 1))
    local about = cjson.decode(call('HGET', P .. 'ln:' .. run, number))
    local ends = tonumber(about[3])
    if ends == 0 or ends > now then found[#found + 1] = { run, number, about[2], about[3] } end
  end
  return found
end

-- The step of one run that has waited longest for an event.
function events.listener_of_run(event, run)
  local found = {}
  local reply = call('HGETALL', P .. 'ln:' .. run)
  for place = 1, #reply, 2 do
    local about = cjson.decode(reply[place + 1])
    local ends = tonumber(about[3])
    if about[1] == event and (ends == 0 or ends > now) then
      found[#found + 1] = { run, tonumber(reply[place]), tonumber(about[2]) }
    end
  end
  table.sort(found, function(one, other)
    if one[3] ~= other[3] then return one[3] < other[3] end
    return one[2] < other[2]
  end)
  return { found[1] }
end

-- Deliver an event to the runs that wait for it, or keep it for the one run. Returns the ids of the runs.
function events.notify(event, data, run)
  local found = run and events.listener_of_run(event, run) or events.listeners(event)
  if run and #found == 0 then
    local message = messages.load(run) or items.add_message(run)
    if not message or messages.is_cancelled(message) then return {} end
    if call('LLEN', P .. 'k:' .. run) >= KEPT_EVENTS then return {} end
    call('RPUSH', P .. 'k:' .. run, event .. '\1' .. data)
    events.mark_waiting(run)
    return { run }
  end
  local notified, seen = {}, {}
  for _, one in ipairs(found) do
    events.add_arrival(one[1], one[2], 'done', data)
    events.unlisten(one[1], one[2])
    if not seen[one[1]] then notified[#notified + 1] = one[1] end
    seen[one[1]] = true
  end
  return notified
end

-- Register a step that waits for an event; the oldest kept event arrives at once.
function events.listen(run, number, event, ends)
  events.mark_waiting(run)
  local begins = event .. '\1'
  for _, kept in ipairs(call('LRANGE', P .. 'k:' .. run, 0, -1)) do
    -- JSON text has no control characters: the last one ends the id, whatever the id is.
    if string.sub(kept, 1, #begins) == begins and not string.find(kept, '\1', #begins + 1, true) then
      call('LREM', P .. 'k:' .. run, 1, kept)
      return events.add_arrival(run, number, 'done', string.sub(kept, #begins + 1))
    end
  end
  if call('HSETNX', P .. 'ln:' .. run, number, cjson.encode({ event, now, number_text(ends) })) == 1 then
    call('ZADD', P .. 'e:' .. event, now, listener(run, number))
  end
end

function events.unlisten(run, number)
  local about = call('HGET', P .. 'ln:' .. run, number)
  if about then
    call('HDEL', P .. 'ln:' .. run, number)
    call('ZREM', P .. 'e:' .. cjson.decode(about)[1], listener(run, number))
  end
end

function events.add_webhook(run, token)
  events.mark_waiting(run)
  if call('HSETNX', P .. 'wh', token, run) == 1 then call('SADD', P .. 'whr:' .. run, token) end
end

-- Remove everything that an ended run waited for, but for its webhooks.
function events.drop_waits(run)
  local listens = call('HKEYS', P .. 'ln:' .. run)
  for _, number in ipairs(listens) do events.unlisten(run, tonumber(number)) end
  call('DEL', P .. 'a:' .. run, P .. 'k:' .. run)
end

-- Remove the webhooks of a run that will not go on; a dead letter keeps its own, since it may be redriven.
function events.drop_webhooks(run)
  for _, token in ipairs(call('SMEMBERS', P .. 'whr:' .. run)) do call('HDEL', P .. 'wh', token) end
  call('DEL', P .. 'whr:' .. run)
end

-- notify: delivers an event to all runs that wait for it, or to one run, now or once it waits. The ids of these runs.
verbs.notify = function(event, data, run) return events.notify(event, data, or_nil(run)) end

-- waiters: the steps that wait for an event, longest first. webhook: the run of a webhook's token.
reads.waiters = function(event)
  local rows = {}
  for place, one in ipairs(events.listeners(event)) do
    local step = call('HGET', P .. 'm:' .. one[1], 's' .. one[2])
    rows[place] = { one[1], step and cjson.decode(step)[STEP.name] or '', one[3], one[4] }
  end
  return rows
end

reads.webhook = function(token)
  local run = call('HGET', P .. 'wh', token)
  return run and not call('HGET', P .. 'm:' .. run, 'z') and run or NULL
end
