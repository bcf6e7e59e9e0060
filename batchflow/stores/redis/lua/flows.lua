-- declare: sets what the code says of flow keys. pin: what an operator says, which wins until unpin. Safe to repeat.
verbs.declare = function(limits)
  for _, one in ipairs(limits) do flows.declare(one) end
end

verbs.pin = function(limits, paused)
  local flow = flows.make(limits[1])
  local fields = { pin = 1, pp = opt(limits[2]) or 0, pr = opt(limits[3]) or 0, pper = limits[4], pz = paused and 1 or 0, nx = 0 }
  for field, value in pairs(fields) do flows.set(flow, field, value) end
  tell()
end

verbs.unpin = function(key)
  local flow = flows.get(key)
  if not flow then return end
  for _, field in ipairs({ 'pin', 'pz', 'nx' }) do flows.set(flow, field, 0) end
  tell()
end
