-- open_messages: the messages of the items of a batch, or of its layers, that have not ended: up to `limit` of each state,
-- of those that are looked at. Those of a state are in order, as OpenMessage says.
local STATE_OF = { [RETRYING] = 'retrying', [PARKED] = 'parked' }

local function state_of(message, due)
  if message.o then return 'running' end
  if STATE_OF[message.wt] then return STATE_OF[message.wt] end
  if message.l > 0 then return 'lost' end
  return message.f > 0 and due > now and 'suspended' or 'waiting'
end

local function error_of(batch, message)
  if message.n < 0 then return message.e end
  local text = call('HGET', items.results(batch.id, message.n), message.n)
  return text and or_nil(cjson.decode(text)[3])
end

-- Collects messages by state, each with what orders it within its state.
local function new_collection(batch, layers)
  local found = {}
  local function put(state, order, id, message)
    found[state] = found[state] or {}
    table.insert(found[state], { order = order, id = id, message = message })
  end
  function found.add(id)
    local message = messages.load(id)
    if not message or message.b ~= batch.id or (message.n < 0) ~= layers then return end
    local due = tonumber(message.u or 0)
    message.due = due
    put(state_of(message, due), message.o and tonumber(message.st) or due, id, message)
  end
  function found.add_fresh(number, item, key)
    local id = string.format('%s.r%09d', batch.id, number)
    put('waiting', 0, id, { d = batch.d, k = key, n = number, i = item, at = 0, due = 0 })
  end
  return found
end

-- Add up to `limit` fresh messages of a lane, which is one of this flow key.
local function add_fresh(found, lane, key, limit)
  for _, member in ipairs(call('ZRANGE', lane, 0, limit - 1)) do
    local id, first, last = lanes.parse_range(member)
    for number = first or 1, math.min(last or 0, (first or 0) + limit - 1) do
      local value = call('HGET', items.bucket(id, number), number)
      if value and string.sub(value, 1, 1) == 'o' then found.add_fresh(number, string.sub(value, 2), key) end
    end
    if not id then found.add(member) end
  end
end

-- Add what waits in the lanes of a batch.
local function add_waiting(found, batch, layers, limit)
  local left = SEARCHED_MESSAGES
  local seen = call('SSCAN', P .. 'bq:' .. batch.id, 0, 'COUNT', SEARCHED_LANES)[2]
  for place = 1, math.min(#seen, SEARCHED_LANES) do
    local destination, key, group = string.match(seen[place], '^(.*)\n(.*)\n(.*)$')
    if (destination ~= batch.d) == layers then
      local started = call('ZRANGE', lanes.started(destination, key, group), 0, left - 1)
      left = math.max(1, left - #started)
      for _, id in ipairs(started) do found.add(id) end
      add_fresh(found, lanes.fresh(destination, key, group), key, limit)
    end
  end
end

-- Add what workers hold, and what is claimed alone: `begins` is what the ids of a batch's messages begin with.
local function add_claimed(found, begins)
  local left = SEARCHED_MESSAGES
  local function add(ids)
    for _, id in ipairs(ids) do
      if left > 0 and string.sub(id, 1, #begins) == begins then
        found.add(id)
        left = left - 1
      end
    end
  end
  for _, worker in ipairs(call('ZRANGE', P .. 'workers', 0, -1)) do add(call('HKEYS', workers.claims_key(worker))) end
  add(call('ZRANGE', P .. 'sus', 0, SEARCHED_MESSAGES - 1))
end

reads.open_messages = function(id, layers, limit)
  local batch, rows = batches.get(id), {}
  if not batch then return rows end
  local found = new_collection(batch, layers)
  add_waiting(found, batch, layers, limit)
  add_claimed(found, id .. '.')
  local completion = layers and messages.load(batches.completion_id(batch))
  if completion and not completion.o then found.add(batches.completion_id(batch)) end
  for state, listed in pairs(found) do
    if type(listed) == 'table' then
      table.sort(listed, function(one, other)
        if one.order ~= other.order then return one.order < other.order end
        return one.id < other.id
      end)
      for place = 1, math.min(#listed, limit) do
        local name, message = listed[place].id, listed[place].message
        local due = not message.o and message.due > now and message.due < NEVER and message.due
        rows[#rows + 1] = row_of(OPEN_MESSAGE_COLUMNS, {
          id = name, destination = message.d, flow = message.k, number = message.n, item = message.i or '', state = state,
          due_at = due, started_at = tonumber(message.st), attempts = message.at, error = error_of(batch, message),
          worker = message.o,
        })
      end
    end
  end
  return rows
end
