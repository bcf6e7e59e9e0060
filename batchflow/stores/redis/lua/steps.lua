-- Steps, stored in the hash of their message as the JSON text in which they arrived; and the effects of steps.
-- Write steps [field, position, text] of a held claim. Returns whether one of them is an outcome.
function steps.put(id, rows)
  local fields, outcome = {}, false
  for _, row in ipairs(rows) do
    fields[#fields + 1] = row[1]
    fields[#fields + 1] = row[3]
    outcome = outcome or row[2] > 0
  end
  in_slices(fields, function(part) call('HSET', P .. 'm:' .. id, unpack(part)) end)
  return outcome
end

-- The steps among the fields of a message: { number, text }, …, by number.
function steps.of(fields)
  local found = {}
  for name, text in pairs(fields) do
    local number = string.match(name, '^s(%d+)$')
    if number then found[#found + 1] = { tonumber(number), text } end
  end
  table.sort(found, function(one, other) return one[1] < other[1] end)
  return found
end

function steps.text(found)
  local texts = {}
  for place, one in ipairs(found) do texts[place] = one[2] end
  return '[' .. table.concat(texts, ',') .. ']'
end

-- The outcomes of pending steps by now, in time order: { time, order, place, number, state, value, error }, …
local function outcomes(pending, arrivals)
  local found = {}
  for place, text in ipairs(arrivals) do
    local number, how, value, error, at = unpack(cjson.decode(text))
    if pending[number] then found[#found + 1] = { math.min(at, now), 0, place, number, how, value, error } end
  end
  for number, step in pairs(pending) do
    local due, kind = tonumber(step[STEP.due]), step[STEP.kind]
    if (kind == 'sleep' or kind == 'wait') and due > 0 and due <= now then
      found[#found + 1] = { due, 1, number, number, kind == 'sleep' and 'done' or 'timeout', 'null', step[STEP.error] }
    end
  end
  table.sort(found, function(one, other)
    for place = 1, 2 do
      if one[place] ~= other[place] then return one[place] < other[place] end
    end
    return one[3] < other[3]
  end)
  return found
end

-- Record due timers and arrivals in a journal, as batchflow.core.run.apply_arrivals does. Returns its texts, and whether there
-- were any: then failures and losses start again from 0.
function steps.apply_arrivals(id, found)
  local arrivals = call('LRANGE', P .. 'a:' .. id, 0, -1)
  local pending, position, place_of, woken = {}, 0, {}, false
  for place, one in ipairs(found) do
    local step = cjson.decode(one[2])
    place_of[one[1]] = place
    if step[STEP.state] == 'pending' then pending[one[1]] = step end
    position = math.max(position, step[STEP.position])
  end
  for _, what in ipairs(outcomes(pending, arrivals)) do
    local number = what[4]
    local step = pending[number]
    if step then
      pending[number], woken = nil, true
      position = position + 1
      if what[2] == 0 and step[STEP.value] == SECRET_OUTCOME and type(what[6]) == 'string' then
        what[6] = SECRET_HEAD .. what[6] .. '}'
      end
      step[STEP.state], step[STEP.position], step[STEP.value], step[STEP.error] = what[5], position, what[6], what[7]
      step[STEP.due], step[STEP.at] = number_text(tonumber(step[STEP.due])), now
      local text = cjson.encode(step)
      found[place_of[number]][2] = text
      call('HSET', P .. 'm:' .. id, 's' .. number, text)
      if step[STEP.kind] == 'wait' then events.unlisten(id, number) end
    end
  end
  if #arrivals > 0 then call('DEL', P .. 'a:' .. id) end
  if woken then call('HSET', P .. 'm:' .. id, 'x', 0, 'l', 0) end
  return found, woken
end

-- Effects, written together with a step or a settlement: first those of `apply`, then messages, then items and places in
-- queues, then ends of workflow runs.
local apply = {
  enter = function(_, batch, total, left_out) batches.enter(batch, total, left_out) end,
  page = function(_, id, ...)
    local batch = batches.get(id)
    if not batch then return end
    batches.add(batch, 'pg', 1)
    for place, field in ipairs({ 'el', 'ap', 'du', 'lo', 'ch' }) do batches.add(batch, field, (select(place, ...))) end
  end,
  walked = function(_, batch, total) batches.walked(batch, total) end,
  open = function(_, batch, first) verbs.open_batch(batch, first) end,
  listen = function(...) events.listen(...) end,
  unlisten = function(run, numbers)
    for _, number in ipairs(numbers) do events.unlisten(run, number) end
  end,
  accept = function(...) events.add_webhook(...) end,
  notify = function(_, event, data, run) events.notify(event, data, or_nil(run)) end,
  log = function(_, list) verbs.log(list) end,
}
local later = {
  publish = function(_, list)
    for _, message in ipairs(list) do messages.publish(message) end
  end,
  send = function(_, list) posts.send(list) end,
}
local last = {
  start = function(_, ...) items.start(...) end,
  leave = function(_, message, heir) queues.leave(message, or_nil(heir)) end,
}
local at_the_end = { end_run = function(_, ...) wire_runs.finish(...) end }

-- Apply effects, each [kind, argument, …].
function steps.apply_effects(run, list)
  for _, stage in ipairs({ apply, later, last, at_the_end }) do
    for _, effect in ipairs(list) do
      local act = stage[effect[1]]
      if act then act(run, unpack(effect, 2)) end
    end
  end
end

-- record: writes a step of a claim that is still held with this fence, and its effects unless the step is recorded
-- already. Answers 'stale' or 'cancelled' and changes nothing if it may not. An outcome sets failures and losses to 0.
verbs.record = function(id, fence, row, list)
  local key = P .. 'm:' .. id
  local held = call('HMGET', key, 'o', 'f', 'c', 'b', 'i')
  if not held[1] or tonumber(held[2]) ~= fence then return 'stale' end
  if held[3] or batches.is_cancelling(held[4] or held[5] and string.sub(id, 1, -12)) then return 'cancelled' end
  local known = false
  local before = list and call('HGET', key, row[1])
  if before then
    local old, new = cjson.decode(before), cjson.decode(row[3])
    known = old[STEP.state] == new[STEP.state] and old[STEP.position] == new[STEP.position]
  end
  -- Nothing was counted before the first claim.
  if row[2] > 0 and fence > 1 then
    call('HSET', key, row[1], row[3], 'x', 0, 'l', 0)
  else
    call('HSET', key, row[1], row[3])
  end
  if list and not known then steps.apply_effects(id, list) end
  return 'recorded'
end
verbs.record_with_effects = verbs.record
