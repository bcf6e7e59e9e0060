-- processed: those of the ids that the ledger holds and whose mark has not expired. waiters: who waits for an event,
-- longest first. webhook: the run that one is for. flows: flow keys as they stand, by name.
verbs.processed = function(workflow, ids)
  local found = {}
  sliced(ids, function(part)
    for place, score in ipairs(call('ZMSCORE', P .. 'l:' .. workflow, unpack(part))) do
      if score and tonumber(score) > now then found[#found + 1] = part[place] end
    end
  end)
  return found
end

verbs.waiters = function(event)
  local rows = {}
  for place, one in ipairs(waiting.of_event(event)) do
    local step = call('HGET', P .. 'm:' .. one[1], 's' .. one[2])
    rows[place] = { one[1], step and cjson.decode(step)[2] or '', one[3], one[4] }
  end
  return rows
end

verbs.webhook = function(token) return out(call('HGET', P .. 'wh', token)) end

verbs.flows = function(keys)
  keys = opt(keys) or call('ZRANGE', P .. 'flows', 0, -1)
  table.sort(keys)
  local rows, seen = {}, {}
  for _, key in ipairs(keys) do
    local flow = not seen[key] and flows.get(key)
    seen[key] = true
    if flow then
      local p, rate, period = flows.limits(flow)
      rows[#rows + 1] = { key, out(p), out(rate), period, flow.pin == 1, flow.pz == 1, flow.n, flow.w, flow.pk }
    end
  end
  return rows
end
