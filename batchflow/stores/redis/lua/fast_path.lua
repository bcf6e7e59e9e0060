-- The fast path: steps and settlements of items on their first claim, without effects. They are the most frequent
-- operations of a batch, and so are passed apart from the others, as plain arguments:
-- plain[2]: the worker; plain[3], plain[4]: the number of steps and of settlements; then id, field and text of each
-- step, and id, result (a JSON string or null) and duration of each settlement. A worker's hash has '=' and the item
-- for each id on the fast path, and '!' for any other: that operation goes to its verb. The answer: the operations
-- whose answer is not the usual one, as [place, whether it succeeded, answer].
local STEP_WIDTH, END_WIDTH = 3, 3

local function held_by(worker, ids)
  local found, name = {}, workers.claims_key(worker)
  in_slices(ids, function(part, first)
    for place, value in ipairs(call('HMGET', name, unpack(part))) do found[first + place - 1] = value end
  end)
  return found
end

-- The batch of a held item, with the sums of its settlements; false if the item belongs to the verb.
local function batch_of(known, id)
  local name = string.sub(id, 1, -12)
  local sums = known[name]
  if sums == nil then
    local batch = batches.get(name)
    sums = batch and batch.s ~= 'cancelling' and not batch.ro and { batch = batch, ends = 0, took = 0, buckets = {} } or false
    known[name] = sums
  end
  return sums
end

local function put_steps(count, held, known, except)
  local begin = P .. 'm:'
  for place = 1, count do
    local at, id = 2 + place * STEP_WIDTH, plain[2 + place * STEP_WIDTH]
    if held[place] and string.byte(held[place]) == 61 and batch_of(known, id) then
      local reply = redis.pcall('HSET', begin .. id, plain[at + 1], plain[at + 2])
      if type(reply) == 'table' then except[#except + 1] = { place, false, reply.err } end
    else
      local row = { plain[at + 1], cjson.decode(plain[at + 2])[STEP.position], plain[at + 2] }
      except[#except + 1] = { place, try(verbs.record, id, 1, row) }
    end
  end
end

-- The buffered lists to which the settlements of one bucket of items are written.
local function lists_of(sums, number)
  local bucket = math.floor(number / BUCKET)
  local lists = sums.buckets[bucket]
  if not lists then
    local batch = sums.batch
    lists = {
      states = buffer.list('HSET', P .. 'i:' .. batch.id .. ':' .. bucket),
      results = buffer.list('HSET', P .. 'x:' .. batch.id .. ':' .. bucket),
      in_flight = buffer.list('HDEL', P .. 'h:' .. batch.lg),
      marks = buffer.list('ZADD', P .. 'l:' .. batch.lg),
      expiry = batch.tt and string.format('%.0f', now + batch.tt) or '+inf',
      keeps = batch.kr == 1,
    }
    sums.buckets[bucket] = lists
  end
  return lists
end

local function put_end(sums, id, item, result, took)
  local text = string.sub(id, -9)
  local number = tonumber(text)
  local lists = lists_of(sums, number)
  local states, results, in_flight, marks = lists.states, lists.results, lists.in_flight, lists.marks
  states[#states + 1] = number
  states[#states + 1] = 's' .. item
  results[#results + 1] = number
  results[#results + 1] = '[' .. NOW .. ',' .. (lists.keeps and result or 'null') .. ',null]'
  in_flight[#in_flight + 1] = item
  marks[#marks + 1] = lists.expiry
  marks[#marks + 1] = item
  sums.ends = sums.ends + 1
  sums.took = sums.took + took
  if sums.batch.dd == '1' then call('HDEL', items.data(sums.batch.id, number), number) end
  sums.last = id
end

-- These ends of items of a batch were successes of its key, whose circuit breaker counts failures. Returns the item that
-- has closed it, with the change.
local function count_successes(flow, places)
  local trial = flows.trial(flow)
  if trial and places[trial] then
    flows.end_trial(flow)
    return trial, flows.count_outcome(flow.key, trial, 0)
  end
  if not flows.is_breaker_open(flow) then flows.count_outcome(flow.key, nil, 0) end
end

local function add_up(known, places, except)
  local changes = {}
  for name, sums in pairs(known) do
    if sums and sums.ends > 0 then
      local batch = sums.batch
      batches.add(batch, 'op', -sums.ends)
      batches.add(batch, 'su', sums.ends)
      if sums.took > 0 then batches.add(batch, 'wm', sums.took) end
      local flow = flows.release(batch.k, sums.ends)
      if flow and flow.ir and flow.ir > 0 then
        local id, change = count_successes(flow, places)
        if id then changes[id] = change end
      end
      state.touched[name] = true
    end
  end
  for name in pairs(batches.end_finished()) do
    local sums = known[name]
    if sums and sums.last then
      except[#except + 1] = { places[sums.last], true, { false, name, changes[sums.last] } }
      state.ended[name], changes[sums.last] = nil, nil
    end
  end
  for id, change in pairs(changes) do except[#except + 1] = { places[id], true, { false, NULL, change } } end
end

local function put_ends(worker, steps_count, count, held, known, except)
  local gone, left, places = buffer.list('DEL', ''), buffer.list('HDEL', workers.claims_key(worker)), {}
  local from = 4 + steps_count * STEP_WIDTH
  for place = 1, count do
    local at = from + (place - 1) * END_WIDTH + 1
    local id, value = plain[at], held[steps_count + place]
    local sums = value and string.byte(value) == 61 and not buffer.gone[id] and batch_of(known, id)
    if sums then
      put_end(sums, id, string.sub(value, 2), plain[at + 1], tonumber(plain[at + 2]))
      gone[#gone + 1] = P .. 'm:' .. id
      buffer.gone[id] = true
      left[#left + 1] = id
      places[id] = steps_count + place
    else
      local result = cjson.decode('[' .. plain[at + 1] .. ']')[1]
      local took = tonumber(plain[at + 2])
      except[#except + 1] = { steps_count + place, try(verbs.settle, id, 1, 'done', result, NULL, 0, {}, {}, took) }
    end
  end
  return places
end

function fast_path.run()
  local except = {}
  local worker, steps_count, count = plain[2], tonumber(plain[3]), tonumber(plain[4])
  if not worker then return except end
  local ids = {}
  for place = 1, steps_count do ids[place] = plain[2 + place * STEP_WIDTH] end
  for place = 1, count do ids[steps_count + place] = plain[5 + steps_count * STEP_WIDTH + (place - 1) * END_WIDTH] end
  local held, known = held_by(worker, ids), {}
  put_steps(steps_count, held, known, except)
  if count > 0 then add_up(known, put_ends(worker, steps_count, count, held, known, except), except) end
  return except
end
