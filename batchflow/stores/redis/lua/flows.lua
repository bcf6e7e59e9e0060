-- declare: sets what the code says of flow keys. pin: limits that an operator sets, which win until unpin. pause: nothing
-- starts until resume. Safe to repeat.
verbs.declare = function(limits)
  for _, one in ipairs(limits) do flows.declare(one) end
end

verbs.pin = function(limits)
  local flow = flows.make(limits[LIMITS.key])
  local parallelism, rate = opt(limits[LIMITS.parallelism]), opt(limits[LIMITS.rate])
  if parallelism then flows.set(flow, 'pp', parallelism) end
  if rate then
    flows.set(flow, 'pr', rate)
    flows.set(flow, 'pper', limits[LIMITS.period_ms])
    flows.set(flow, 'nx', 0)
    lanes.release(flow.key)
  end
  tell()
end

verbs.unpin = function(key, parallelism, rate)
  local flow = flows.get(key)
  if not flow then return end
  if parallelism then flows.set(flow, 'pp', 0) end
  if rate and flow.pr > 0 then
    flows.set(flow, 'pr', 0)
    flows.set(flow, 'nx', 0)
    lanes.release(key)
  end
  tell()
end

verbs.pause = function(key) flows.set(flows.make(key), 'pz', 1) end

verbs.resume = function(key)
  local flow = flows.get(key)
  if flow and flow.pz == 1 then
    flows.set(flow, 'pz', 0)
    lanes.release(key)
  end
  tell()
end
