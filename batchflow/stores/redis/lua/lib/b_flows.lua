-- Flow keys: their limits, what they hold, and the rule of batchflow.core.flow.admit. Read once in a group, written at
-- its end. Fields: p, r, per: limits of the code (0: none); pin, pp, pr, pper, pz: those of an operator, and whether it
-- is paused; n: in use; w: waiting; nx: the first start not yet given away; pk: parked until; tu: its latest turn.
local CATCH_UP_MS = 10
local SKEW_MS = 1000
flows.cache = {}

function flows.get(key)
  local flow = flows.cache[key]
  if flow == nil then
    local reply = call('HGETALL', P .. 'f:' .. key)
    if #reply == 0 then return nil end
    flow = { key = key, dirty = {} }
    for place = 1, #reply, 2 do flow[reply[place]] = tonumber(reply[place + 1]) end
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

function flows.make(key)
  local flow = flows.get(key)
  if not flow then
    call('ZADD', P .. 'flows', 0, key)
    flow = { key = key, dirty = {} }
    for _, field in ipairs({ 'p', 'r', 'pin', 'pp', 'pr', 'pz', 'n', 'w', 'nx', 'pk', 'tu' }) do flows.set(flow, field, 0) end
    flows.set(flow, 'per', 1000)
    flows.set(flow, 'pper', 1000)
    flows.cache[key] = flow
  end
  return flow
end

function flows.flush()
  for key, flow in pairs(flows.cache) do
    local changed = {}
    for field in pairs(flow.dirty) do
      changed[#changed + 1] = field
      changed[#changed + 1] = string.format('%.17g', flow[field])
    end
    if #changed > 0 then call('HSET', P .. 'f:' .. key, unpack(changed)) end
    flow.dirty = {}
  end
end

-- The limits of the code: [key, parallelism, rate, period].
function flows.declare(limits)
  local key, p, r, per = limits[1], opt(limits[2]) or 0, opt(limits[3]) or 0, limits[4]
  local flow = flows.make(key)
  if flow.p ~= p or flow.r ~= r or flow.per ~= per then
    if flow.r ~= r or flow.per ~= per then flows.set(flow, 'nx', 0) end
    flows.set(flow, 'p', p)
    flows.set(flow, 'r', r)
    flows.set(flow, 'per', per)
    tell()
  end
end

-- The limits in force: parallelism, rate (each nil where there is none), period.
function flows.limits(flow)
  local p, r, per = flow.p, flow.r, flow.per
  if flow.pin == 1 then p, r, per = flow.pp, flow.pr, flow.pper end
  return p > 0 and p or nil, r > 0 and r or nil, per
end

-- The first start not yet given away, no further back than the catch-up; and the time between two.
function flows.earliest(flow)
  local _, rate, period = flows.limits(flow)
  if not rate then return now, 0 end
  local interval, start = period / rate, flow.nx
  -- No start lies more than one interval ahead: the clock was set back, or the rate was lower until now.
  if start - now > interval + SKEW_MS then start = now end
  return math.max(start, now - CATCH_UP_MS), interval
end

-- How many of `want` may start now.
function flows.admitted(flow, want)
  if flow.pz == 1 or flow.pk > now then return 0 end
  local p, rate = flows.limits(flow)
  local count = want
  if p then count = math.min(count, p - flow.n) end
  if rate then
    local start, interval = flows.earliest(flow)
    count = math.min(count, start <= now and math.floor((now - start) / interval) + 1 or 0)
  end
  return math.max(0, count)
end

-- So many have been leased: places, starts and the key's turn are taken.
function flows.take(flow, count)
  local _, rate = flows.limits(flow)
  if rate then
    local start, interval = flows.earliest(flow)
    flows.set(flow, 'nx', start + count * interval)
  end
  flows.set(flow, 'n', flow.n + count)
  flows.set(flow, 'w', flow.w - count)
  flows.set(flow, 'tu', call('HINCRBY', META, 'turn', 1))
end

-- Places of a key that are free again.
function flows.give_back(key, count)
  local flow = flows.get(key)
  if flow then
    flows.set(flow, 'n', math.max(0, flow.n - (count or 1)))
    if flows.limits(flow) then tell() end
  end
end
