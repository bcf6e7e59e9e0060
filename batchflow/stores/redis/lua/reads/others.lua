-- processed: those of the ids that the ledger holds and whose mark has not expired. ledgers: the names of those that
-- hold something. marks: of a ledger [id, until when], after an id, in the order in which they expire. waiters: who waits for an event,
-- longest first. webhook: the run that one is for. flows: flow keys as they stand, by name.
reads.processed = function(workflow, ids)
  local found = {}
  sliced(ids, function(part)
    for place, score in ipairs(call('ZMSCORE', P .. 'l:' .. workflow, unpack(part))) do
      if score and tonumber(score) > now then found[#found + 1] = part[place] end
    end
  end)
  return found
end

reads.ledgers = function()
  local found = {}
  for _, name in ipairs(call('SMEMBERS', P .. 'ws')) do
    if call('ZCARD', P .. 'l:' .. name) > 0 then found[#found + 1] = name end
  end
  table.sort(found)
  return found
end

reads.marks = function(ledger, after, limit)
  local key = P .. 'l:' .. ledger
  -- Where it has gone meanwhile, all of them come once more.
  local rank = opt(after) and call('ZRANK', key, after)
  local from = rank and rank + 1 or call('ZCOUNT', key, '-inf', now)
  local rows, reply = {}, call('ZRANGE', key, from, from + limit - 1, 'WITHSCORES')
  for place = 1, #reply, 2 do
    local ends = reply[place + 1]
    rows[#rows + 1] = { reply[place], ends == 'inf' and NULL or string.format('%.0f', tonumber(ends)) }
  end
  return rows
end

reads.under_way = function(dedup) return out(call('HGET', P .. 'dk', dedup)) end

reads.waiters = function(event)
  local rows = {}
  for place, one in ipairs(waiting.of_event(event)) do
    local step = call('HGET', P .. 'm:' .. one[1], 's' .. one[2])
    rows[place] = { one[1], step and cjson.decode(step)[STEP.name] or '', one[3], one[4] }
  end
  return rows
end

reads.webhook = function(token) return out(call('HGET', P .. 'wh', token)) end

reads.flows = function(keys)
  keys = opt(keys) or call('ZRANGE', P .. 'flows', 0, -1)
  table.sort(keys)
  local rows, seen = {}, {}
  for _, key in ipairs(keys) do
    local flow = not seen[key] and flows.get(key)
    seen[key] = true
    if flow then
      local p, rate, period, burst = flows.limits(flow)
      rows[#rows + 1] = {
        key, out(p), out(rate), period, burst, flow.pp > 0 and flow.pp or NULL, flow.pr > 0 and flow.pr or NULL,
        flow.pz == 1, flow.n, flow.w, flow.pk,
      }
    end
  end
  return rows
end
