-- Batches and their items. What is one number or word of a batch is read once in a group and written at its end.
-- Fields: w, lg: workflow and ledger, s: state, d, k, kf: where its items wait, and the limits there, cp, cf: destination
-- and flow of its completion, hd: headers, of: who is told of an item's death, tt: how long marks last, kr: results are
-- kept, fo, na: forced, its ids are named, L: label, od: what holds others off while it is open, pz: paused, wd, bk: it
-- is walked, its walk broke off, ge: generation, e: error, en: entered, wk: working, pg: pages, ch: chunks, to: total,
-- el, op, su, fa, ca, ap, fl, du, lo: counts, wm: worked ms, t, st, za: made, started and ended at, p, ps, dp: parent, its
-- step, depth, sq: its number among all batches, hi: one above its highest item, sw: swept so far.
local NUMBERS = {
  'na', 'pz', 'wd', 'bk', 'ge', 'kr', 'fo', 'en', 'wk', 'pg', 'ch', 'to', 'el', 'op', 'su', 'fa', 'ca', 'ap', 'fl', 'du', 'lo', 'wm', 't', 'st', 'za',
  'ps', 'dp', 'sq', 'hi', 'sw', 'tt',
}
local COUNT_OF = { s = 'su', f = 'fa', c = 'ca' }
each_call(function() batches.cache = {} end)

function batches.bucket(id, number) return P .. 'i:' .. id .. ':' .. math.floor(number / BUCKET) end

function batches.data(id, number) return P .. 'd:' .. id .. ':' .. math.floor(number / BUCKET) end

function batches.ends(id, number) return P .. 'x:' .. id .. ':' .. math.floor(number / BUCKET) end

function batches.get(id)
  local batch = batches.cache[id]
  if batch == nil then
    local reply = call('HGETALL', P .. 'b:' .. id)
    if #reply == 0 then return nil end
    batch = record_of(reply)
    for _, field in ipairs(NUMBERS) do batch[field] = tonumber(batch[field]) end
    batch.id, batch.dirty, batch.names = id, {}, {}
    batches.cache[id] = batch
  end
  return batch
end

function batches.set(batch, field, value)
  batch[field] = value
  batch.dirty[field] = true
end

function batches.add(batch, field, delta) batches.set(batch, field, batch[field] + delta) end

function batches.flush()
  for id, batch in pairs(batches.cache) do
    local changed = {}
    for field in pairs(batch.dirty) do
      local value = batch[field]
      changed[#changed + 1] = field
      changed[#changed + 1] = type(value) == 'number' and string.format('%.17g', value) or value
    end
    if #changed > 0 then call('HSET', P .. 'b:' .. id, unpack(changed)) end
    batch.dirty = {}
  end
end

function batches.is_cancelling(id)
  local batch = id and batches.get(id)
  return batch and batch.s == 'cancelling'
end

function batches.takes(batch) return batch and not batch.za and batch.s ~= 'cancelling' end

function batches.enter(id, total, left_out)
  local batch = batches.get(id)
  if not batch or batch.en == 1 then return end
  batches.set(batch, 'en', 1)
  batches.set(batch, 'st', now)
  batches.add(batch, 'lo', left_out)
  if opt(total) then batches.set(batch, 'to', total) end
  if batch.s == 'pending' then batches.set(batch, 's', 'open') end
end

-- The walk is through: what was held back is claimed from now on.
function batches.walked(id, total)
  local batch = batches.get(id)
  if not batch or batch.za then return end
  batches.set(batch, 'wd', 1)
  if opt(total) then batches.set(batch, 'to', total) end
  lanes.open(id)
end

-- The items `first`, … of a batch with these ids, as far as they have no run yet, no other batch has them in flight and
-- they are not processed. `marked`: those that are started in spite of their mark. `data`: what fetch brought of them.
function batches.start_items(id, first, ids, marked, data, already_processed)
  local batch = batches.get(id)
  if not batches.takes(batch) then return end
  batches.add(batch, 'ap', already_processed)
  local again = {}
  for _, item in ipairs(marked) do again[item] = true end
  sliced(ids, function(part, place) batches.start_some(batch, first + place - 1, part, again) end)
  sliced(data, function(part, place) batches.keep_data(batch, first + place - 1, part) end)
end

function batches.keep_data(batch, first, texts)
  for place, text in ipairs(texts) do
    local number = first + place - 1
    if opt(text) and call('HEXISTS', batches.bucket(batch.id, number), number) == 1 then
      call('HSET', batches.data(batch.id, number), number, text)
      if batch.dd ~= '1' then batches.set(batch, 'dd', '1') end
    end
  end
end

function batches.has(batch, number)
  return number < batch.hi and call('HEXISTS', batches.bucket(batch.id, number), number) == 1
end

-- Which of the ids the ledger of a batch holds, by place.
local function processed(batch, ids, again)
  local found = {}
  for place, score in ipairs(call('ZMSCORE', P .. 'l:' .. batch.lg, unpack(ids))) do
    found[place] = score and tonumber(score) > now and not again[ids[place]]
  end
  return found
end

-- Of the given items those that are to start, as number → id; the others are counted.
function batches.fresh(batch, first, ids, again)
  buffer.flush()
  local every = batch.fo == 1 or batch.na == 1
  local mine = call('SMISMEMBER', P .. 'bi:' .. batch.id, unpack(ids))
  local holders = every and {} or call('HMGET', P .. 'h:' .. batch.lg, unpack(ids))
  local done = every and {} or processed(batch, ids, again)
  local held, seen, fresh = tostring(batch.sq), {}, {}
  for place, item in ipairs(ids) do
    local number, holder = first + place - 1, holders[place]
    if mine[place] == 1 or seen[item] or batches.has(batch, number) then
      batches.add(batch, 'du', 1)
    elseif holder and holder ~= held then
      batches.add(batch, 'fl', 1)
    elseif done[place] then
      batches.add(batch, 'ap', 1)
    else
      seen[item] = true
      fresh[number] = item
    end
  end
  return fresh
end

function batches.start_some(batch, first, ids, again)
  local fresh = batches.fresh(batch, first, ids, again)
  local set, hold, bucket, from = {}, {}, {}, nil
  local lane = lanes.fresh(batch.d, batch.k, batch.id)
  for number = first, first + #ids do
    local item = fresh[number]
    if item then
      set[#set + 1] = item
      hold[#hold + 1] = item
      hold[#hold + 1] = batch.sq
      bucket[#bucket + 1] = number
      bucket[#bucket + 1] = 'o' .. item
      from = from or number
    elseif from then
      lanes.add_range(lane, batch.id, from, number - 1)
      from = nil
    end
    if #bucket > 0 and number % BUCKET == BUCKET - 1 or number == first + #ids and #bucket > 0 then
      call('HSET', batches.bucket(batch.id, bucket[1]), unpack(bucket))
      bucket = {}
    end
  end
  if #set == 0 then return end
  call('SADD', P .. 'bi:' .. batch.id, unpack(set))
  call('HSET', P .. 'h:' .. batch.lg, unpack(hold))
  batches.add(batch, 'op', #set)
  batches.set(batch, 'hi', math.max(batch.hi, first + #ids))
  flows.add(batch.k, 'w', #set)
  lanes.note(batch.d, batch.k, batch.id)
  lanes.ready_by(batch.d, batch.k, batch.id, 0)
end

-- The keys that the end of an item writes to, put together once for a bucket.
function batches.names(batch, first)
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

-- The run of an item has ended.
function batches.end_item(batch, number, item, how, result, error, took)
  local became = ITEM_STATE[how]
  local ended = { now, batch.kr == 1 and result or NULL, error or NULL }
  local names = batches.names(batch, number - number % BUCKET)
  number = tostring(number)
  buffer.pair('HSET', names.i, number, became .. item)
  buffer.pair('HSET', names.x, number, cjson.encode(ended))
  if batch.dd == '1' and became ~= 'f' then call('HDEL', batches.data(batch.id, number), number) end
  -- A batch that was forced may have it in flight by now, which what has failed here leaves alone.
  if became == 's' or call('HGET', names.h, item) == tostring(batch.sq) then buffer.add('HDEL', names.h, item) end
  if became == 's' then
    buffer.pair('ZADD', names.l, batch.tt and string.format('%.0f', now + batch.tt) or '+inf', item)
  end
  batches.add(batch, 'op', -1)
  batches.add(batch, COUNT_OF[became], 1)
  if took and took > 0 then batches.add(batch, 'wm', took) end
  state.touched[batch.id] = true
end

-- An item that nobody has claimed yet is cancelled.
function batches.end_fresh(batch, number, item)
  batches.end_item(batch, number, item, 'cancelled')
  flows.add(batch.k, 'w', -1)
end

-- A message of a layer has ended.
function batches.end_layer(batch, id, how, error)
  call('SREM', P .. 'bm:' .. batch.id, id)
  batches.add(batch, 'wk', -1)
  if how ~= 'done' and not batch.za and batch.s ~= 'cancelling' then
    if not batch.e then batches.set(batch, 'e', error or "its run '" .. id .. "' was cancelled") end
    batches.set(batch, 'en', 1)
    state.broken[batch.id] = true
  end
  state.touched[batch.id] = true
end

-- What a walk that broke off had held back is not released any more: it is ended, a slice at a time; how many were.
function batches.sweep_held(batch, limit)
  local count = 0
  for _, id in ipairs(call('SMEMBERS', P .. 'bm:' .. batch.id)) do
    local message = messages.load(id)
    if message and message.he and not message.o then
      if count == limit then return count end
      ending.finish(id, message, { how = 'cancelled' })
      count = count + 1
    end
  end
  call('SREM', P .. 'bc', batch.id)
  return count
end

local function break_off(id)
  local batch = batches.get(id)
  if not batch or batch.za or batch.wd == 1 or batch.bk == 1 then return end
  local held = false
  lanes.each(id, function(_, _, group) held = held or group ~= id end)
  if not held then return end
  batches.set(batch, 'bk', 1)
  call('SADD', P .. 'bc', id)
  batches.sweep_held(batch, SWEEP_LIMIT)
end

-- End those touched batches that have nothing left to do; the ids of those that ended.
function batches.finish()
  local ended = {}
  while next(state.broken) do
    local id = next(state.broken)
    state.broken[id] = nil
    break_off(id)
  end
  while next(state.touched) do
    local id = next(state.touched)
    state.touched[id] = nil
    local batch = batches.get(id)
    if batch and not batch.za and batch.wk == 0 and (batch.en == 1 or batch.s == 'cancelling') then
      if batch.op == 0 then
        batches.close(batch)
        ended[id] = true
      elseif batch.s == 'open' then
        batches.set(batch, 's', 'sealed')
      end
    end
  end
  return ended
end

function batches.completion(batch) return batch.id .. (batch.ge == 1 and '.z' or '.z' .. batch.ge) end

function batches.close(batch)
  local id = batch.id
  batches.drop_ranges(batch)
  batches.set(batch, 's', batch.s == 'cancelling' and 'cancelled' or batch.e and 'failed' or 'completed')
  batches.set(batch, 'za', now)
  batches.set(batch, 'pz', 0)
  flows.add(batch.k, 'ob', -1)
  if batch.od and call('HGET', P .. 'dk', batch.od) == id then call('HDEL', P .. 'dk', batch.od) end
  call('SREM', P .. 'bc', id)
  call('ZREM', P .. 'bo', id)
  call('ZADD', P .. 'be', now, id)
  call('DEL', P .. 'bi:' .. id, P .. 'bq:' .. id)
  if batch.p then call('SREM', P .. 'kidb:' .. batch.p, id) end
  if batch.cp then
    local flow = cjson.decode(batch.cf)
    -- Not as others are published: an ended batch takes no messages but this one.
    messages.add({
      id = batches.completion(batch), d = batch.cp, flow = flow, u = 0, b = id, p = batch.p, ps = batch.ps, dp = batch.dp,
    })
  end
  tell()
end

function batches.drop_ranges(batch)
  local key = P .. 'r:' .. batch.id
  local ranges = call('ZRANGE', key, 0, -1)
  if #ranges == 0 then return end
  sliced(ranges, function(part) call('ZREM', lanes.fresh(batch.d, batch.k, batch.id), unpack(part)) end)
  call('DEL', key)
  lanes.recount(batch.d, batch.k, batch.id)
end

-- Nothing more of a batch is leased from here on. False when it had ended, or is not known.
function batches.begin_cancel(id)
  local batch = batches.get(id)
  if not batch or batch.za then return false end
  batches.set(batch, 's', 'cancelling')
  call('SADD', P .. 'bc', id)
  lanes.close(id)
  state.touched[id] = true
  return true
end

-- Lease nothing more of a batch, or go on with it; false where that changes nothing.
function batches.pause(id, paused)
  local batch = batches.get(id)
  if not batches.takes(batch) or paused == 0 and batch.pz ~= 1 then return false end
  batches.set(batch, 'pz', paused)
  if paused == 1 then lanes.close(id) else lanes.open(id) end
  return true
end

-- A dead letter of a batch gets another life: its item is open again, or its walk goes on; false where it cannot.
function batches.reopen(batch, message)
  if batch.s == 'cancelling' or message.n < 0 and batch.bk == 1 then return false end
  if batch.za then
    local completion = batches.completion(batch)
    local waits = messages.load(completion)
    -- It tells of an end that is not one any more.
    if waits and not waits.o then messages.remove(completion, waits) end
    batches.set(batch, 's', message.n < 0 and batch.st and 'open' or message.n < 0 and 'pending' or 'sealed')
    batches.set(batch, 'ge', batch.ge + 1)
    batch.za = nil
    call('HDEL', P .. 'b:' .. batch.id, 'za')
    call('ZREM', P .. 'be', batch.id)
    call('ZADD', P .. 'bo', batch.sq, batch.id)
    flows.follow(cjson.decode(batch.kf))
    flows.add(batch.k, 'ob', 1)
  elseif message.n < 0 then
    batches.set(batch, 's', batch.st and 'open' or 'pending')
  end
  if message.n >= 0 then
    batches.reopen_item(batch, message)
  else
    batch.e = nil
    batch.dirty.e = nil
    call('HDEL', P .. 'b:' .. batch.id, 'e')
    batches.set(batch, 'en', batch.st and 1 or 0)
    batches.add(batch, 'wk', 1)
  end
  return true
end

function batches.reopen_item(batch, message)
  local number, item = message.n, message.i
  batches.add(batch, 'fa', -1)
  batches.add(batch, 'op', 1)
  call('HSET', batches.bucket(batch.id, number), number, 'o' .. item)
  call('HDEL', batches.ends(batch.id, number), number)
  call('HSET', P .. 'h:' .. batch.lg, item, batch.sq)
  call('SADD', P .. 'bi:' .. batch.id, item)
end

-- End up to `limit` of what waits of a batch that is being cancelled; how many.
function batches.sweep(batch, limit)
  local count = 0
  for _, id in ipairs(call('SMEMBERS', P .. 'bm:' .. batch.id)) do
    local message = count < limit and messages.load(id)
    if message and not message.o then
      ending.finish(id, message, { how = 'cancelled' })
      count = count + 1
    end
  end
  local at = batch.sw
  while at < batch.hi and count < limit do
    local value = call('HGET', batches.bucket(batch.id, at), at)
    if value and string.sub(value, 1, 1) == 'o' then
      count = count + batches.sweep_item(batch, at, string.sub(value, 2))
    end
    at = at + 1
  end
  if at ~= batch.sw then batches.set(batch, 'sw', at) end
  if at == batch.hi then batches.drop_ranges(batch) end
  return count
end

function batches.sweep_item(batch, number, item)
  local id = string.format('%s.r%09d', batch.id, number)
  local message = messages.load(id)
  if not message then
    batches.end_fresh(batch, number, item)
  elseif message.o then
    return 0
  else
    ending.finish(id, message, { how = 'cancelled' })
  end
  return 1
end
