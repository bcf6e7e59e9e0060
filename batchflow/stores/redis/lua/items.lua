-- Items of batches: where they are stored, how they start and how they end.
-- The count of a batch to which an item belongs, by the letter of its state.
local COUNT_OF = { s = 'su', f = 'fa', c = 'ca' }

function items.bucket(id, number) return P .. 'i:' .. id .. ':' .. math.floor(number / BUCKET) end

function items.data(id, number) return P .. 'd:' .. id .. ':' .. math.floor(number / BUCKET) end

function items.results(id, number) return P .. 'x:' .. id .. ':' .. math.floor(number / BUCKET) end

-- Start the items `first`, … of a batch that have no run yet, are not in flight in another batch and are not processed.
-- `marked`: items to start in spite of their mark. `data`: the data that fetch returned for each. `numbers`: in a retry
-- their numbers in its origin. `own`: the limits of items with a key of their own.
function items.start(id, first, ids, marked, data, already_processed, numbers, own)
  local batch = batches.get(id)
  if not batches.accepts_messages(batch) then return end
  batches.add(batch, 'ap', already_processed)
  local again = {}
  for _, item in ipairs(marked) do again[item] = true end
  local keys = nested.keys(batch, own, first)
  in_slices(ids, function(part, place)
    local earlier = batch.ro and retries.earlier(batch, part, numbers, place) or {}
    items.start_slice(batch, first + place - 1, part, again, earlier, keys)
  end)
  in_slices(data, function(part, place) items.store_data(batch, first + place - 1, part) end)
end

function items.store_data(batch, first, texts)
  for place, text in ipairs(texts) do
    local number = first + place - 1
    if or_nil(text) and call('HEXISTS', items.bucket(batch.id, number), number) == 1 then
      call('HSET', items.data(batch.id, number), number, text)
      if batch.dd ~= '1' then batches.set(batch, 'dd', '1') end
    end
  end
end

function items.exists(batch, number)
  return number < batch.hi and call('HEXISTS', items.bucket(batch.id, number), number) == 1
end

-- Of each id, true if the batch's ledger has a mark that counts.
local function processed(batch, ids, again)
  local found = {}
  for place, score in ipairs(call('ZMSCORE', P .. 'l:' .. batch.lg, unpack(ids))) do
    found[place] = score and tonumber(score) > now and not again[ids[place]]
  end
  return found
end

-- The items that may start, as number → id; counts the others. `earlier`: in a retry the letters of their earlier runs.
function items.startable(batch, first, ids, again, earlier)
  buffer.flush()
  local every = batch.fo == 1 or batch.na == 1
  local mine = call('SMISMEMBER', P .. 'bi:' .. batch.id, unpack(ids))
  local holders = every and not batch.ro and {} or call('HMGET', P .. 'h:' .. batch.lg, unpack(ids))
  local done = every and {} or processed(batch, ids, again)
  local held, seen, fresh = tostring(batch.sq), {}, {}
  for place, item in ipairs(ids) do
    local number, holder = first + place - 1, holders[place]
    if mine[place] == 1 or seen[item] or items.exists(batch, number) then
      batches.add(batch, 'du', 1)
    elseif holder and holder ~= held or earlier[place] == 'o' then
      batches.add(batch, 'fl', 1)
    elseif done[place] or earlier[place] == 's' and batch.fo ~= 1 then
      batches.add(batch, 'ap', 1)
    else
      seen[item] = true
      fresh[number] = item
    end
  end
  return fresh
end

function items.start_slice(batch, first, ids, again, earlier, keys)
  local fresh = items.startable(batch, first, ids, again, earlier)
  local set, hold, bucket, from, key = {}, {}, {}, nil, nil
  local counts = keys and nested.start(batch, fresh, keys) or {}
  for number = first, first + #ids do
    local item = fresh[number]
    local own = item and keys and keys[number] or batch.k
    if from and not (item and own == key) then
      lanes.add_range(lanes.fresh(batch.d, key, nested.group_of(batch, key)), batch.id, from, number - 1)
      from = nil
    end
    if item then
      set[#set + 1] = item
      hold[#hold + 1] = item
      hold[#hold + 1] = batch.sq
      bucket[#bucket + 1] = number
      bucket[#bucket + 1] = 'o' .. item
      from, key = from or number, own
    end
    if #bucket > 0 and number % BUCKET == BUCKET - 1 or number == first + #ids and #bucket > 0 then
      call('HSET', items.bucket(batch.id, bucket[1]), unpack(bucket))
      bucket = {}
    end
  end
  if #set == 0 then return end
  if batch.ro then
    local letters = {}
    for place = 1, #ids do letters[first + place - 1] = earlier[place] end
    retries.note(batch, fresh, letters)
  end
  call('SADD', P .. 'bi:' .. batch.id, unpack(set))
  call('HSET', P .. 'h:' .. batch.lg, unpack(hold))
  batches.add(batch, 'op', #set)
  batches.set(batch, 'hi', math.max(batch.hi, first + #ids))
  flows.add(batch.k, 'w', #set)
  local left = #set
  for own, count in pairs(counts) do
    flows.add(own, 'w', count)
    lanes.add_to_batch(batch.d, own, batch.id .. nested.MARK)
    lanes.mark_ready(batch.d, own, batch.id .. nested.MARK, 0)
    left = left - count
  end
  if left == 0 then return end
  lanes.add_to_batch(batch.d, batch.k, batch.id)
  lanes.mark_ready(batch.d, batch.k, batch.id, 0)
end

-- The keys that the end of an item writes to, composed once for each bucket.
function items.keys(batch, first)
  local names = batch.names[first]
  if not names then
    local bucket = math.floor(first / BUCKET)
    names = {
      i = P .. 'i:' .. batch.id .. ':' .. bucket, x = P .. 'x:' .. batch.id .. ':' .. bucket,
      h = P .. 'h:' .. batch.lg, l = P .. 'l:' .. batch.lg,
    }
    batch.names[first] = names
  end
  return names
end

-- Record the end of an item's run; `attempts` are its failed and lost ones.
function items.finish(batch, number, item, how, result, error, took, attempts)
  local became = ITEM_LETTER[how]
  if became == 's' and batch.ro then retries.recover(batch, number, item) end
  local ended = { now, batch.kr == 1 and result or NULL, error or NULL, attempts }
  local names = items.keys(batch, number - number % BUCKET)
  number = tostring(number)
  buffer.pair('HSET', names.i, number, became .. item)
  buffer.pair('HSET', names.x, number, cjson.encode(ended))
  if batch.dd == '1' and became ~= 'f' then call('HDEL', items.data(batch.id, number), number) end
  -- A forced batch may have the item in flight by now; a failure here must not release it.
  if became == 's' or call('HGET', names.h, item) == tostring(batch.sq) then buffer.add('HDEL', names.h, item) end
  if became == 's' then
    buffer.pair('ZADD', names.l, batch.tt and string.format('%.0f', now + batch.tt) or '+inf', item)
  end
  batches.add(batch, 'op', -1)
  batches.add(batch, COUNT_OF[became], 1)
  if took and took > 0 then batches.add(batch, 'wm', took) end
  state.touched[batch.id] = true
end

-- Note a failed or lost attempt of an open item: its attempts so far, and the error of the last failed one.
function items.fail(message, error)
  local name = items.keys(batches.get(message.b), message.n - message.n % BUCKET).x
  local number = tostring(message.n)
  if not error then
    local before = call('HGET', name, number)
    error = before and cjson.decode(before)[3]
  end
  call('HSET', name, number, cjson.encode({ NULL, NULL, error or NULL, message.at }))
end

-- The batch, the number and the id of the item of a run that nobody has claimed yet; nil if the run is not such a one.
function items.unclaimed(id)
  local name, digits = string.match(id, '^(.*)%.r(%d%d%d%d%d%d%d%d%d)$')
  local batch = name and batches.get(name)
  buffer.flush()
  if not batch or call('EXISTS', P .. 'm:' .. id) == 1 then return nil end
  local number = tonumber(digits)
  local value = call('HGET', items.bucket(name, number), number)
  if not value or string.sub(value, 1, 1) ~= 'o' then return nil end
  return batch, number, string.sub(value, 2)
end

-- Give the run of an item that nobody has claimed yet a hash of its own, in its place of the lane. Returns its message;
-- nil if the run is not such a one.
function items.add_message(id)
  local batch, number, item = items.unclaimed(id)
  local member = batch and call('ZREVRANGEBYSCORE', P .. 'r:' .. batch.id, number, '-inf', 'LIMIT', 0, 1)[1]
  if not member then return nil end
  local key = nested.key_of(batch, number)
  local lane = lanes.fresh(batch.d, key, nested.group_of(batch, key))
  local _, first, last = lanes.parse_range(member)
  lanes.drop_range(lane, batch.id, member)
  if first < number then lanes.add_range(lane, batch.id, first, number - 1) end
  if number < last then lanes.add_range(lane, batch.id, number + 1, last) end
  call('ZADD', lane, 0, id)
  call('HSET', P .. 'm:' .. id, 'i', item, 't', NOW, 'u', 0)
  if key ~= batch.k then call('HSET', P .. 'm:' .. id, 'k', key, 'pa', batch.k) end
  return messages.load(id)
end

-- Cancel an item that nobody has claimed yet.
function items.cancel_fresh(batch, number, item)
  items.finish(batch, number, item, 'cancelled', nil, nil, 0, 0)
  local key = nested.key_of(batch, number)
  flows.add_of({ k = key, pa = key ~= batch.k and batch.k }, 'w', -1)
end

function items.drop_ranges(batch)
  local key = P .. 'r:' .. batch.id
  local ranges = call('ZRANGE', key, 0, -1)
  if #ranges == 0 then return end
  in_slices(ranges, function(part) call('ZREM', lanes.fresh(batch.d, batch.k, batch.id), unpack(part)) end)
  call('DEL', key)
  lanes.recount(batch.d, batch.k, batch.id)
  if batch.ik == '1' then nested.drop_ranges(batch) end
end

function items.reopen(batch, message)
  local number, item = message.n, message.i
  batches.add(batch, 'fa', -1)
  batches.add(batch, 'op', 1)
  if (tonumber(batch.bf) or 0) > 0 then batches.set(batch, 'bf', batch.bf - 1) end
  call('HSET', items.bucket(batch.id, number), number, 'o' .. item)
  call('HSET', items.results(batch.id, number), number, cjson.encode({ NULL, NULL, NULL, message.at }))
  call('HSET', P .. 'h:' .. batch.lg, item, batch.sq)
  call('SADD', P .. 'bi:' .. batch.id, item)
end

function items.cancel_waiting(batch, number, item)
  local id = string.format('%s.r%09d', batch.id, number)
  local message = messages.load(id)
  if not message then
    items.cancel_fresh(batch, number, item)
  elseif message.o then
    return 0
  else
    settling.finish(id, message, { how = 'cancelled' })
  end
  return 1
end

-- The row of an item, and the size of its result and error.
function items.row(id, number, value, results)
  local letter = string.sub(value, 1, 1)
  local text = call('HGET', items.results(id, number), number)
  local about = text and cjson.decode(text) or {}
  return row_of(ITEM_COLUMNS, {
    number = number, id = string.sub(value, 2), state = ITEM_STATE[letter],
    result = results and about[2], error = about[3], ended_at = about[1],
    attempts = (about[4] or 0) + (letter == 's' and 1 or 0),
  }), text and #text or 0
end

-- items: the items above `after` by number, as far as a bounded look goes: [rows, the number to continue after or
-- null]. Without `results` these stay where they are; with them the last one is that with which they come to `size`.
reads.items = function(id, shown, after, limit, results, size)
  shown = or_nil(shown)
  local batch, rows, number = batches.get(id), {}, after + 1
  if not batch then return { rows, NULL } end
  local stop, left = number + LOOK, size
  while number < batch.hi and number < stop and #rows < limit and left > 0 do
    local found = to_table(call('HGETALL', items.bucket(id, number)))
    repeat
      local value = found[tostring(number)]
      if value and (not shown or ITEM_STATE[string.sub(value, 1, 1)] == shown) and #rows < limit then
        local row, taken = items.row(id, number, value, results)
        rows[#rows + 1] = row
        if results then left = left - taken end
      end
      number = number + 1
    until number % BUCKET == 0 or #rows == limit or left <= 0
  end
  return { rows, #rows < limit and number < batch.hi and number - 1 or NULL }
end

-- Look for the item of a batch with this id, from the item `number` on: its number and value, or nil; and the number
-- to continue at, or nil if there is none.
local function look_for(id, item, number, most)
  local batch, looked = batches.get(id), 0
  -- A batch that has not ended has an index, though not of the items that ended before it was redriven.
  local indexed = batch and not batch.za and batch.ge == 1
  if not batch or indexed and call('SMISMEMBER', P .. 'bi:' .. id, item)[1] ~= 1 then return nil, nil, nil, 0 end
  while number < batch.hi and looked < most do
    local found = to_table(call('HGETALL', items.bucket(id, number)))
    local first = number - number % BUCKET
    for at = first, first + BUCKET - 1 do
      local value = found[tostring(at)]
      if value and string.sub(value, 2) == item then return at, value, nil, looked end
    end
    looked, number = looked + BUCKET, first + BUCKET
  end
  return nil, nil, number < batch.hi and number or nil, looked
end

-- find_item: the item of a batch with this id, from the item `number` on, as far as a bounded look goes: [its row or
-- null, where to continue or null].
reads.find_item = function(id, item, number)
  local at, value, next = look_for(id, item, number, LOOK)
  local row = at and items.row(id, at, value, true)
  return { row or NULL, or_null(next) }
end

-- items_with_ids: the items of a batch with these ids, from the item `number` on, as far as a bounded look goes: [rows
-- without results, where to continue or null].
reads.items_with_ids = function(id, ids, number)
  local batch, rows, wanted = batches.get(id), {}, {}
  if not batch then return { rows, NULL } end
  for _, item in ipairs(ids) do wanted[item] = true end
  local stop = math.min(batch.hi, number + LOOK)
  while number < stop do
    for at, value in pairs(to_table(call('HGETALL', items.bucket(id, number)))) do
      if wanted[string.sub(value, 2)] then rows[#rows + 1] = (items.row(id, tonumber(at), value, false)) end
    end
    number = number + BUCKET
  end
  return { rows, number < batch.hi and number or NULL }
end

-- find_items: the items with this id of the latest batches of a workflow, newest first, from the batch at `place` and the
-- item `number` of it on, as far as a bounded look goes: [[batch, row] of each, where to continue or null].
reads.find_items = function(workflow, item, limit, place, number)
  local rows, looked = {}, 0
  local latest = call('ZREVRANGE', P .. 'bw:' .. workflow, place, SEARCHED_BATCHES - 1)
  for offset, id in ipairs(latest) do
    local at, value, next, taken = look_for(id, item, number, LOOK - looked)
    if next then return { rows, { place + offset - 1, next } } end
    if at then
      local row = items.row(id, at, value, true)
      rows[#rows + 1] = { id, row }
    end
    looked, number = looked + taken + 1, 0
    if #rows >= limit then return { rows, NULL } end
    if looked >= LOOK and offset < #latest then return { rows, { place + offset, 0 } } end
  end
  return { rows, NULL }
end
