-- cancel_run: ends a waiting run, marks a leased one; false when it had ended. cancel_all: the same for a slice of those
-- of a function or with a label; how many. What they wait for is cancelled with them. Safe to repeat.

-- The item of a batch that nobody has claimed yet.
local function cancel_fresh(id)
  local name, number = string.match(id, '^(.*)%.r(%d%d%d%d%d%d%d%d%d)$')
  local batch = name and batches.get(name)
  number = tonumber(number)
  local value = batch and call('HGET', batches.bucket(name, number), number)
  if not value or string.sub(value, 1, 1) ~= 'o' then return false end
  batches.end_fresh(batch, number, string.sub(value, 2))
  lanes.recount(batch.d, batch.k, batch.id)
  return true
end

local function cancel(id)
  local message = messages.load(id)
  if not message then return cancel_fresh(id) end
  if message.o then
    messages.cancel_leased(id, message)
  else
    ending.finish(id, message, { how = 'cancelled' })
  end
  return true
end

verbs.cancel_run = function(id)
  local found = cancel(id)
  batches.finish()
  return found
end

verbs.cancel_all = function(destination, label)
  destination, label = opt(destination), opt(label)
  local key = label and P .. 'ol:' .. label or P .. 'od:' .. destination
  local found, offset = {}, 0
  while #found < SWEEP_LIMIT do
    local ids = call('ZRANGE', key, offset, offset + CHUNK - 1)
    if #ids == 0 then break end
    offset = offset + #ids
    for _, id in ipairs(ids) do
      local about = call('HMGET', P .. 'm:' .. id, 'd', 'kp')
      local fits = not destination or not label or (about[1] == destination and about[2])
      if fits and #found < SWEEP_LIMIT then found[#found + 1] = id end
    end
  end
  for _, id in ipairs(found) do cancel(id) end
  batches.finish()
  return #found
end
