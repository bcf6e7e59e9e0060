-- Retries: batches that run items of another batch, their origin, again, or what is missing there. `ri:<origin>` has the
-- latest run of each item that a retry has started: the retry, the number, and the letter of the state in which the run
-- before it had ended, if there was one.

local function parse(value)
  local id, number, before = string.match(value, '^(.-)\n(%d+)\n(.?)$')
  return batches.get(id) and { id = id, number = tonumber(number), before = before }
end

-- The latest run in a retry of each of these items, in their order; false for none, or none that is still kept.
local function latest(origin, ids)
  local found = {}
  in_slices(ids, function(part, first)
    for place, value in ipairs(call('HMGET', P .. 'ri:' .. origin, unpack(part))) do
      found[first + place - 1] = value and parse(value) or false
    end
  end)
  return found
end

local function letter_of(id, number)
  local value = call('HGET', items.bucket(id, number), number)
  return value and string.sub(value, 1, 1)
end

-- The letters of the states of the earlier runs of items that a retry is to start, in their order; `again` are their
-- numbers in its origin, of which the first is at `from`.
function retries.earlier(batch, ids, again, from)
  local letters = {}
  if not batches.get(batch.ro) then return letters end
  for place, run in ipairs(latest(batch.ro, ids)) do
    local number = again[from + place - 1] or -1
    if run then
      letters[place] = letter_of(run.id, run.number)
    elseif number >= 0 then
      letters[place] = letter_of(batch.ro, number)
    end
  end
  return letters
end

-- Note that a retry starts these items, given as number → id and number → letter of the earlier run.
function retries.note(batch, fresh, letters)
  if not batches.get(batch.ro) then return end
  local fields = {}
  for number, item in pairs(fresh) do
    local before = letters[number]
    if before then batches.add(batch, 'rp' .. before, 1) end
    fields[#fields + 1] = item
    fields[#fields + 1] = batch.id .. '\n' .. string.format('%.0f', number) .. '\n' .. (before or '')
  end
  in_slices(fields, function(part) call('HSET', P .. 'ri:' .. batch.ro, unpack(part)) end)
end

-- Count an item of a retry that has succeeded, if it had not before.
function retries.recover(batch, number, item)
  local run = latest(batch.ro, { item })[1]
  local own = run and run.id == batch.id and run.number == number
  if own and (run.before == 'f' or run.before == 'c') then batches.add(batch, 'rc', 1) end
end

-- True if a retry has started this item of a batch again, or a later one this item of a retry.
function retries.has_taken(batch, number, item)
  local run = latest(batch.ro or batch.id, { item })[1]
  return run and not (run.id == batch.id and run.number == number)
end

-- retries: the retries of a batch, oldest first. retried_items: the latest runs of items that retries have started, as
-- [retry, row].
reads.retries = function(id)
  local rows = {}
  for place, retry in ipairs(call('ZRANGE', P .. 'rb:' .. id, 0, -1)) do
    rows[place] = batches.row(batches.get(retry), true)
  end
  return rows
end

reads.retried_items = function(id, ids)
  local rows = {}
  for place, run in ipairs(latest(id, ids)) do
    local value = run and call('HGET', items.bucket(run.id, run.number), run.number)
    if value then rows[#rows + 1] = { run.id, (items.row(run.id, run.number, value, true)) } end
  end
  return rows
end

-- missing_items: those of `ids` that no batch of the family of an open retry has started; null while the ids of the
-- origin are still added to the retry's own, a slice at a time. To be called again until it is not.
verbs.missing_items = function(id, ids)
  local batch = batches.get(id)
  local origin = batch and batch.ro and not batch.za and batches.get(batch.ro)
  if not origin then return {} end
  local own, stop = P .. 'bi:' .. id, math.min(origin.hi, batch.sd + LOOK)
  while batch.sd < stop do
    local known = {}
    for _, value in pairs(to_table(call('HGETALL', items.bucket(origin.id, batch.sd)))) do
      known[#known + 1] = string.sub(value, 2)
    end
    if #known > 0 then call('SADD', own, unpack(known)) end
    batches.set(batch, 'sd', batch.sd + BUCKET)
  end
  if batch.sd < origin.hi then return nil end
  local missing = {}
  in_slices(ids, function(part)
    local known, taken = call('SMISMEMBER', own, unpack(part)), call('HMGET', P .. 'ri:' .. origin.id, unpack(part))
    for place, item in ipairs(part) do
      if known[place] == 0 and not taken[place] then missing[#missing + 1] = item end
    end
  end)
  return missing
end
