-- Flow keys: their limits, their counts, and the rule of batchflow.core.flow.admit. Read once in a group, written at
-- its end. Fields: de: declared by the code; p, r, per, bu: limits of the code or of the latest message (0: none); pp,
-- pr, pper, pbu (missing: 1): limits that an operator has pinned (0: none); pz: paused; ppu, pru, pzu: when these pins
-- and the pause end by themselves (0 or missing: only by hand); n: slots in use; w: waiting messages; dl: dead letters;
-- ob: batches that have not ended; fu: it was full for nested lanes; nx: the first free start time; pk: parked
-- until; tu: its latest turn. Of its circuit breaker (batchflow.core.breaker; 0 or missing: it is closed): ir: attempts
-- failed in a row; bo: for how many ms a failed trial parks the key again; tr: the message that is tried now, after '='.
-- `fe` holds the keys by the earliest of these ends, and META the earliest of all as `fe`.
local ZERO = { 'de', 'p', 'r', 'pp', 'pr', 'pz', 'n', 'w', 'dl', 'ob', 'nx', 'pk' }
on_each_call(function() flows.cache, flows.freed = {}, {} end)

function flows.get(key)
  local flow = flows.cache[key]
  if flow == nil then
    local reply = call('HGETALL', P .. 'f:' .. key)
    if #reply == 0 then return nil end
    flow = { key = key, dirty = {} }
    for place = 1, #reply, 2 do flow[reply[place]] = tonumber(reply[place + 1]) or reply[place + 1] end
    flows.cache[key] = flow
  end
  return flow
end

function flows.set(flow, field, value)
  if flow[field] ~= value then
    flow[field] = value
    flow.dirty[field] = true
  end
end

function flows.add(key, field, delta)
  local flow = flows.get(key)
  if flow then flows.set(flow, field, flow[field] + delta) end
end

-- The flow control of the failure messages and notifications to a destination: a key of its own, without limits.
function flows.of_destination(destination)
  local limits = { unpack(UNLIMITED) }
  limits[LIMITS.key] = string.gsub(destination, '[^A-Za-z0-9._-]', '.')
  return limits
end

-- The latest turn given to any key: a new key joins the end of the rotation.
function flows.latest_turn() return tonumber(call('HGET', META, 'turn') or 0) end

-- Count messages of a key and, if these are nested under another, of that one too.
function flows.add_of(message, field, delta)
  flows.add(message.k, field, delta)
  if message.pa then flows.add(message.pa, field, delta) end
end

-- A new key without limits.
function flows.unlimited(key)
  local flow = { key = key, dirty = {} }
  for _, field in ipairs(ZERO) do flows.set(flow, field, 0) end
  flows.set(flow, 'per', UNLIMITED[LIMITS.period_ms])
  flows.set(flow, 'pper', UNLIMITED[LIMITS.period_ms])
  flows.set(flow, 'bu', UNLIMITED[LIMITS.burst])
  return flow
end

function flows.get_or_make(key)
  local flow = flows.get(key)
  if not flow then
    call('ZADD', P .. 'flows', 0, key)
    flow = flows.unlimited(key)
    flows.set(flow, 'tu', flows.latest_turn())
    flows.cache[key] = flow
  end
  return flow
end

-- True if no code declares the key, nothing uses it, and it delays nothing.
function flows.is_idle(flow)
  if flow.de == 1 or flow.pz == 1 or flow.pp > 0 or flow.pr > 0 or flow.pk > now then return false end
  if flow.n > 0 or flow.w > 0 or flow.dl > 0 or flow.ob > 0 then return false end
  local start, interval = flows.next_start(flow)
  return start <= now + interval and (flow.nx <= now or flow.nx > now + interval + SKEW_MS)
end

-- True if its rate, parking or pause may delay lanes, or if it was full for nested ones.
function flows.may_hold_back(flow)
  return flow.r > 0 or flow.pr > 0 or flow.pk > 0 or flow.pz == 1 or flow.fu == 1
end

-- True if all its slots are in use.
function flows.is_full(flow)
  local p = flows.limits(flow)
  return p and flow.n >= p
end

-- Put nested lanes that wait for slots of a key back into their place, if it has any now.
local function place_nested(flow)
  if flow.fu ~= 1 or flows.is_full(flow) then return end
  flows.set(flow, 'fu', 0)
  lanes.place_held_back(flow.key)
end

local function has_ended(at) return at and at > 0 and at <= now end

function flows.is_paused(flow) return flow.pz == 1 and not has_ended(flow.pzu) end

-- The earliest time at which a pin or the pause of a key ends by itself; nil if none does.
local function first_end(flow)
  local first
  for _, field in ipairs({ 'ppu', 'pru', 'pzu' }) do
    local at = flow[field]
    if at and at > 0 and (not first or at < first) then first = at end
  end
  return first
end

-- Set when a pin or the pause of a key ends by itself; 0: only by hand.
local function set_end(flow, field, at)
  if (flow[field] or 0) == at then return end
  flows.set(flow, field, at)
  flow.ends_changed = true
  if at > 0 and (not state.next_end or at < state.next_end) then state.next_end = at end
end

local function unpin_rate(flow)
  if flow.pr == 0 then return end
  flows.set(flow, 'pr', 0)
  flows.set(flow, 'nx', 0)
  set_end(flow, 'pru', 0)
  lanes.place_held_back(flow.key)
end

-- Put lanes of keys that have slots again, or whose trial has ended, back into their place.
function flows.place_freed()
  for key, which in pairs(flows.freed) do
    flows.freed[key] = nil
    if which == 'all' then lanes.place_held_back(key) else place_nested(flows.get(key)) end
  end
end

-- Undo the pins and pauses that have ended by now, and find when the next one ends.
function flows.undo_ended()
  for _, key in ipairs(call('ZRANGEBYSCORE', P .. 'fe', '-inf', now)) do
    local flow = flows.get(key)
    if not flow then
      call('ZREM', P .. 'fe', key)
    else
      flow.ends_changed = true
      if has_ended(flow.ppu) then
        flows.set(flow, 'pp', 0)
        set_end(flow, 'ppu', 0)
        place_nested(flow)
      end
      if has_ended(flow.pru) then unpin_rate(flow) end
      if has_ended(flow.pzu) then
        flows.set(flow, 'pz', 0)
        set_end(flow, 'pzu', 0)
        lanes.place_held_back(key)
      end
    end
  end
  state.next_end = tonumber(call('ZRANGEBYSCORE', P .. 'fe', '(' .. NOW, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2])
  for _, flow in pairs(flows.cache) do
    local first = flow.ends_changed and first_end(flow)
    if first and (not state.next_end or first < state.next_end) then state.next_end = first end
  end
end

-- Wherever the script stops, a pin that ends by itself is in `fe`.
local function write_with_ends(key, flow, write)
  local first = first_end(flow)
  if first then call('ZADD', P .. 'fe', first, key) end
  write()
  if not first then call('ZREM', P .. 'fe', key) end
  flow.ends_changed = nil
  local earliest = call('ZRANGE', P .. 'fe', 0, 0, 'WITHSCORES')[2]
  if earliest then
    call('HSET', META, 'fe', earliest)
  else
    call('HDEL', META, 'fe')
  end
end

function flows.flush()
  for key, flow in pairs(flows.cache) do
    if flow.gone and flows.is_idle(flow) then
      call('DEL', P .. 'f:' .. key)
      call('ZREM', P .. 'flows', key)
    else
      local changed = {}
      for field in pairs(flow.dirty) do
        changed[#changed + 1] = field
        local value = flow[field]
        changed[#changed + 1] = type(value) == 'number' and string.format('%.17g', value) or value
      end
      local function write()
        if #changed > 0 then call('HSET', P .. 'f:' .. key, unpack(changed)) end
      end
      if flow.ends_changed then
        write_with_ends(key, flow, write)
      else
        write()
      end
      flow.dirty = {}
    end
  end
end

-- Mark the idle keys of one slice for removal. Returns how many.
function flows.remove_idle()
  local at = tonumber(call('HGET', META, 'idle') or 0)
  local keys = call('ZRANGE', P .. 'flows', at, at + IDLE_KEYS_LIMIT - 1)
  local gone = 0
  for _, key in ipairs(keys) do
    local flow = flows.get(key)
    if flow and flows.is_idle(flow) then
      flow.gone = true
      gone = gone + 1
    end
  end
  if at > 0 or #keys == IDLE_KEYS_LIMIT then
    call('HSET', META, 'idle', #keys == IDLE_KEYS_LIMIT and at + IDLE_KEYS_LIMIT - gone or 0)
  end
  return gone
end

local function set_limits(flow, limits)
  local p, r = or_nil(limits[LIMITS.parallelism]) or 0, or_nil(limits[LIMITS.rate]) or 0
  local per, bu = limits[LIMITS.period_ms], limits[LIMITS.burst]
  if flow.p ~= p or flow.r ~= r or flow.per ~= per or flow.bu ~= bu then
    local other = flow.r ~= r or flow.per ~= per
    local held = other and flow.r > 0
    if other then flows.set(flow, 'nx', 0) end
    flows.set(flow, 'p', p)
    flows.set(flow, 'r', r)
    flows.set(flow, 'per', per)
    flows.set(flow, 'bu', bu)
    if held then lanes.place_held_back(flow.key) end
    place_nested(flow)
    notify_stores()
  end
end

-- Set the limits of the code.
function flows.declare(limits)
  local flow = flows.get_or_make(limits[LIMITS.key])
  flows.set(flow, 'de', 1)
  set_limits(flow, limits)
end

-- Set the limits that a message carries, unless the code declares its key.
function flows.apply_message_limits(limits)
  local flow = flows.get_or_make(limits[LIMITS.key])
  if flow.de ~= 1 then set_limits(flow, limits) end
end

-- The limits in force: parallelism and rate (nil: unlimited), period, burst.
function flows.limits(flow)
  local p = flow.pp > 0 and flow.pp or flow.p
  local r, per, bu = flow.r, flow.per, flow.bu
  if flow.pr > 0 then r, per, bu = flow.pr, flow.pper, flow.pbu or 1 end
  return p > 0 and p or nil, r > 0 and r or nil, per, bu
end

-- The first free start time, no further back than the catch-up allows; and the interval between two starts.
function flows.next_start(flow)
  local _, rate, period, burst = flows.limits(flow)
  if not rate then return now, 0 end
  local interval, start = period / rate, flow.nx
  -- A start more than one interval ahead means that the clock was set back or that the rate was lower before.
  if start - now > interval + SKEW_MS then start = now end
  return math.max(start, now - math.max(CATCH_UP_MS, (burst - 1) * interval)), interval
end

-- The time from which neither the rate, a pause nor parking prevents a start.
function flows.opens_at(flow)
  if flow.pz == 1 then return NEVER end
  local _, rate = flows.limits(flow)
  if not rate then return flow.pk end
  return math.max(flow.pk, math.ceil((flows.next_start(flow))))
end

-- The number of messages, up to `want`, that may start now.
function flows.admitted(flow, want)
  if flow.pz == 1 or flow.pk > now then return 0 end
  local p, rate = flows.limits(flow)
  local count = want
  if p then count = math.min(count, p - flow.n) end
  if flows.is_breaker_open(flow) then count = math.min(count, 1) end
  if rate then
    local start, interval = flows.next_start(flow)
    count = math.min(count, start <= now and math.floor((now - start) / interval) + 1 or 0)
  end
  return math.max(0, count)
end

-- Count leased messages, of which `id` is the last: take slots. If the circuit breaker is open, it is the trial.
function flows.take_slots(flow, count, id)
  flows.set(flow, 'n', flow.n + count)
  flows.set(flow, 'w', flow.w - count)
  if flows.is_breaker_open(flow) then
    -- Nothing else starts until the trial has ended.
    flows.set(flow, 'tr', '=' .. id)
    flows.set(flow, 'pk', NEVER)
  end
end

-- The same, and take start times and the key's next turn. Returns the turn.
function flows.take(flow, count, id)
  local _, rate = flows.limits(flow)
  if rate then
    local start, interval = flows.next_start(flow)
    flows.set(flow, 'nx', start + count * interval)
  end
  flows.take_slots(flow, count, id)
  flows.set(flow, 'tu', call('HINCRBY', META, 'turn', 1))
  return flow.tu
end

-- Free slots of a key, that of the message `id` for one. Returns the key.
function flows.release(key, count, id)
  local flow = flows.get(key)
  if flow then
    flows.set(flow, 'n', math.max(0, flow.n - count))
    -- Not at once: this reads lanes, and the ends of items that a call carries out are written later.
    if flow.fu == 1 then flows.freed[key] = flows.freed[key] or 'nested' end
    if flows.limits(flow) then notify_stores() end
    if id and flows.trial(flow) == id then flows.end_trial(flow) end
  end
  return flow
end

function flows.is_breaker_open(flow) return flow.bo and flow.bo > 0 end

-- The message that the circuit breaker of a key tries now.
function flows.trial(flow) return flow.tr and flow.tr ~= 0 and string.sub(flow.tr, 2) or nil end

-- The claim of the trial has ended: another one follows, unless its outcome says otherwise.
function flows.end_trial(flow)
  flow.tried = flows.trial(flow)
  flows.set(flow, 'tr', 0)
  flows.set(flow, 'pk', 0)
  -- As for slots: once the ends of items are written.
  flows.freed[flow.key] = 'all'
  notify_stores()
end

-- Count the outcome of a claim of the message `id` that has been released, as batchflow.core.breaker.judge does:
-- `failures` failed attempts, 0 for a success. `batch`: that of an item. Returns the change if the circuit breaker has
-- opened or closed: key, failed attempts in a row, ms for which it is open.
function flows.count_outcome(key, id, failures, batch)
  local flow = flows.get(key)
  if not flow then return nil end
  local in_a_row, open = flow.ir or 0, flows.is_breaker_open(flow)
  if failures == 0 and in_a_row == 0 or open and flow.tried ~= id then return nil end
  flow.tried = nil
  if failures == 0 then
    flows.set(flow, 'ir', 0)
    if not open then return nil end
    flows.set(flow, 'bo', 0)
    return { key, in_a_row, 0 }
  end
  local budget = batch and batch.fb and cjson.decode(batch.fb) or {}
  local most, open_for = or_nil(budget[5]), or_nil(budget[6])
  if not open and not most then return nil end
  in_a_row = in_a_row + failures
  flows.set(flow, 'ir', in_a_row)
  if not open and in_a_row < most then return nil end
  flows.set(flow, 'bo', open_for or flow.bo)
  flows.set(flow, 'pk', math.max(flow.pk, now + flow.bo))
  if not open then return { key, in_a_row, flow.bo } end
end

-- declare: sets the code's limits of flow keys. pin: sets an operator's limits, which take precedence until unpin.
-- pause: nothing starts until resume. Both may end by themselves. reset: removes pins, pause, parking and the latest
-- starts, or only these. Safe to repeat.
verbs.declare = function(limits)
  for _, one in ipairs(limits) do flows.declare(one) end
end

verbs.pin = function(limits, ends)
  ends = or_nil(ends) or 0
  local flow = flows.get_or_make(limits[LIMITS.key])
  local parallelism, rate = or_nil(limits[LIMITS.parallelism]), or_nil(limits[LIMITS.rate])
  if parallelism then
    flows.set(flow, 'pp', parallelism)
    set_end(flow, 'ppu', ends)
    place_nested(flow)
  end
  if rate then
    flows.set(flow, 'pr', rate)
    set_end(flow, 'pru', ends)
    flows.set(flow, 'pper', limits[LIMITS.period_ms])
    flows.set(flow, 'pbu', limits[LIMITS.burst])
    flows.set(flow, 'nx', 0)
    lanes.place_held_back(flow.key)
  end
  notify_stores()
end

verbs.unpin = function(key, parallelism, rate)
  local flow = flows.get(key)
  if not flow then return end
  if parallelism then
    flows.set(flow, 'pp', 0)
    set_end(flow, 'ppu', 0)
    place_nested(flow)
  end
  if rate then unpin_rate(flow) end
  notify_stores()
end

verbs.pause = function(key, ends)
  local flow = flows.get_or_make(key)
  flows.set(flow, 'pz', 1)
  set_end(flow, 'pzu', or_nil(ends) or 0)
  -- Workers that sleep learn when it ends.
  notify_stores()
end

verbs.resume = function(key)
  local flow = flows.get(key)
  if flow and flow.pz == 1 then
    flows.set(flow, 'pz', 0)
    set_end(flow, 'pzu', 0)
    lanes.place_held_back(key)
  end
  notify_stores()
end

verbs.reset = function(key, starts_only)
  local flow = flows.get(key)
  if not flow then return end
  flows.set(flow, 'nx', 0)
  if not starts_only then
    for _, field in ipairs({ 'pp', 'pr', 'pz', 'pk', 'ir', 'bo', 'tr' }) do flows.set(flow, field, 0) end
    for _, field in ipairs({ 'ppu', 'pru', 'pzu' }) do set_end(flow, field, 0) end
  end
  lanes.place_held_back(key)
  notify_stores()
end

-- remove_idle: removes the idle keys of one slice and returns how many. Safe to repeat.
verbs.remove_idle = function()
  flows.undo_ended()
  return flows.remove_idle()
end

local function end_of(at) return at and at > 0 and at end

-- flows: the status of flow keys, by name.
reads.flows = function(keys, counted)
  keys = or_nil(keys) or call('ZRANGE', P .. 'flows', 0, -1)
  table.sort(keys)
  local rows, seen = {}, {}
  for _, key in ipairs(keys) do
    local flow = not seen[key] and flows.get(key)
    seen[key] = true
    if flow then
      rows[#rows + 1] = row_of(FLOW_COLUMNS, {
        key = key, parallelism = flow.p > 0 and flow.p, rate = flow.r > 0 and flow.r, period = flow.per, burst = flow.bu,
        pin_parallelism = flow.pp > 0 and flow.pp, pin_rate = flow.pr > 0 and flow.pr, pin_period = flow.pper,
        pin_burst = flow.pbu or 1, paused = flow.pz == 1, in_use = flow.n, waiting = counted and flow.w or 0,
        parked_until = flow.pk, now = now,
        parallelism_until = end_of(flow.ppu), rate_until = end_of(flow.pru), paused_until = end_of(flow.pzu),
        in_a_row = flow.ir or 0, open_for = flow.bo or 0, trial = flows.trial(flow), next_start = flow.nx,
      })
    end
  end
  return rows
end

-- flow_holders: claimed messages of a flow key, those that started first before the others.
local HOLDERS_LOOK = 10000
reads.flow_holders = function(key, limit)
  local rows, looked = {}, 0
  for _, worker in ipairs(call('ZRANGE', P .. 'workers', 0, -1)) do
    for _, id in ipairs(looked < HOLDERS_LOOK and call('HKEYS', workers.claims_key(worker)) or {}) do
      looked = looked + 1
      local message = messages.load(id)
      if message and message.o == worker and (message.k == key or message.pa == key) then
        rows[#rows + 1] = { id, message.d, worker, tonumber(message.st), or_null(message.b), message.i or '' }
      end
    end
  end
  table.sort(rows, function(one, other)
    if one[4] ~= other[4] then return one[4] < other[4] end
    return one[1] < other[1]
  end)
  return { unpack(rows, 1, math.min(#rows, limit)) }
end
