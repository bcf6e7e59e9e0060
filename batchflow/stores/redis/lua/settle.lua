-- settle: ends a claim that is still held with this fence, with its steps and effects, or answers that it is stale and
-- changes nothing. The answer: [stale, the batch that ended with it or null].

local function stay(id, message, how, error, due, outcome, list)
  if how == 'released' or due <= now then due = 0 end
  if how == 'suspended' and message.ln and call('EXISTS', P .. 'a:' .. id) == 1 then due = 0 end
  local failures = (outcome and 0 or message.x) + (how == 'retry' and 1 or 0)
  messages.give_back(id, message, due, failures, outcome and 0 or message.l, error)
  if how == 'parked' then
    local flow = flows.get(message.k)
    flows.set(flow, 'pk', math.max(flow.pk, due))
  end
  effects.apply(id, list)
end

verbs.settle = function(id, fence, how, result, error, due, rows, list, took)
  if how == 'done' and #list == 0 then
    local item = messages.held_item(id, fence)
    if item then
      ending.leave(id, item)
      buffer.drop(id)
      batches.end_item(batches.get(item.b), item.n, item.i, how, opt(result), nil, took)
      return { false, batches.finish()[item.b] and item.b or NULL }
    end
  end
  local message = messages.held(id, fence)
  if not message then return { true, NULL } end
  local cancelled = messages.is_cancelled(message)
  if cancelled and (STAYS[how] or how == 'dead') then how = 'cancelled' end
  local outcome = false
  if #rows > 0 and not cancelled and (STAYS[how] or how == 'dead') then outcome = steps.put(id, rows) end
  if STAYS[how] then
    stay(id, message, how, opt(error), due, outcome, list)
  else
    ending.finish(id, message, { how = how, result = opt(result), error = opt(error), took = took })
    if how ~= 'cancelled' then effects.apply(id, list) end
  end
  local ended = batches.finish()
  return { false, message.b and ended[message.b] and message.b or NULL }
end
