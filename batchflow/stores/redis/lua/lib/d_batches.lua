-- Batches and their items. What is one number or word of a batch is read once in a group and written at its end.
-- Fields: w: workflow, s: state, d, k: where its items wait, cp, cf: destination and flow of its completion, tt: how long
-- marks last, kr: results are kept, fo: force, L: label, e: error, en: entered, wk: working, pg: pages, ch: chunks,
-- to: total, el, op, su, fa, ca, ap, fl, du, lo: counts, wm: worked ms, t, st, za: made, started and ended at, p, ps,
-- dp: parent, its step, depth, sq: its number among all batches, hi: one above its highest item, sw: swept so far.
local NUMBERS = {
  'kr', 'fo', 'en', 'wk', 'pg', 'ch', 'to', 'el', 'op', 'su', 'fa', 'ca', 'ap', 'fl', 'du', 'lo', 'wm', 't', 'st', 'za',
  'ps', 'dp', 'sq', 'hi', 'sw', 'tt',
}
local ITEM_STATE = { done = 's', answered = 'f', dead = 'f', cancelled = 'c' }
local COUNT_OF = { s = 'su', f = 'fa', c = 'ca' }
batches.cache = {}

function batches.bucket(id, number) return P .. 'i:' .. id .. ':' .. math.floor(number / 64) end

function batches.ends(id, number) return P .. 'x:' .. id .. ':' .. math.floor(number / 64) end

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

-- The items `first`, … of a batch with these ids, as far as they have no run yet and no other batch has them in flight.
function batches.start_items(id, first, ids)
  local batch = batches.get(id)
  if not batches.takes(batch) then return end
  sliced(ids, function(part, place) batches.start_some(batch, first + place - 1, part) end)
end

function batches.has(batch, number)
  return number < batch.hi and call('HEXISTS', batches.bucket(batch.id, number), number) == 1
end

-- Of the given items those that are to start, as number → id; the others are counted.
function batches.fresh(batch, first, ids)
  buffer.flush()
  local mine = call('SMISMEMBER', P .. 'bi:' .. batch.id, unpack(ids))
  local holders = call('HMGET', P .. 'h:' .. batch.w, unpack(ids))
  local held, seen, fresh = tostring(batch.sq), {}, {}
  for place, item in ipairs(ids) do
    local number, holder = first + place - 1, holders[place]
    if mine[place] == 1 or seen[item] or batches.has(batch, number) then
      batches.add(batch, 'du', 1)
    elseif holder and holder ~= held then
      batches.add(batch, 'fl', 1)
    else
      seen[item] = true
      fresh[number] = item
    end
  end
  return fresh
end

function batches.start_some(batch, first, ids)
  local fresh = batches.fresh(batch, first, ids)
  local set, hold, bucket, from = {}, {}, {}, nil
  local lane = lanes.name(batch.d, batch.k)
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
      lanes.add_range(lane, batch.id, from, number - 1, now)
      from = nil
    end
    if #bucket > 0 and number % 64 == 63 or number == first + #ids and #bucket > 0 then
      call('HSET', batches.bucket(batch.id, bucket[1]), unpack(bucket))
      bucket = {}
    end
  end
  if #set == 0 then return end
  call('SADD', P .. 'bi:' .. batch.id, unpack(set))
  call('HSET', P .. 'h:' .. batch.w, unpack(hold))
  batches.add(batch, 'op', #set)
  batches.set(batch, 'hi', math.max(batch.hi, first + #ids))
  flows.add(batch.k, 'w', #set)
  lanes.ready_by(batch.d, batch.k, now)
end

-- The keys that the end of an item writes to, put together once for a bucket.
function batches.names(batch, first)
  local names = batch.names[first]
  if not names then
    local bucket = math.floor(first / 64)
    names = {
      i = P .. 'i:' .. batch.id .. ':' .. bucket, x = P .. 'x:' .. batch.id .. ':' .. bucket,
      h = P .. 'h:' .. batch.w, l = P .. 'l:' .. batch.w,
    }
    batch.names[first] = names
  end
  return names
end

-- The run of an item has ended.
function batches.end_item(batch, number, item, how, result, error, took)
  local became = ITEM_STATE[how]
  local ended = { now, batch.kr == 1 and result or NULL, error or NULL }
  local names = batches.names(batch, number - number % 64)
  number = tostring(number)
  buffer.pair('HSET', names.i, number, became .. item)
  buffer.pair('HSET', names.x, number, cjson.encode(ended))
  buffer.add('HDEL', names.h, item)
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
  end
  state.touched[batch.id] = true
end

-- End those touched batches that have nothing left to do; the ids of those that ended.
function batches.finish()
  local ended = {}
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

function batches.close(batch)
  local id = batch.id
  batches.drop_ranges(batch)
  batches.set(batch, 's', batch.s == 'cancelling' and 'cancelled' or batch.e and 'failed' or 'completed')
  batches.set(batch, 'za', now)
  call('SREM', P .. 'bc', id)
  call('ZREM', P .. 'bo', id)
  call('ZADD', P .. 'be', now, id)
  call('DEL', P .. 'bi:' .. id)
  if batch.p then call('SREM', P .. 'kidb:' .. batch.p, id) end
  if batch.cp then
    local flow = cjson.decode(batch.cf)
    -- Not as others are published: an ended batch takes no messages but this one.
    messages.add({
      id = id .. '.z', d = batch.cp, flow = flow, u = now, b = id, p = batch.p, ps = batch.ps, dp = batch.dp,
    })
  end
  tell()
end

function batches.drop_ranges(batch)
  local key = P .. 'r:' .. batch.id
  local ranges = call('ZRANGE', key, 0, -1)
  if #ranges == 0 then return end
  sliced(ranges, function(part) call('ZREM', lanes.name(batch.d, batch.k), unpack(part)) end)
  call('DEL', key)
  lanes.recount(batch.d, batch.k)
end

-- Nothing more of a batch is leased from here on. False when it had ended, or is not known.
function batches.begin_cancel(id)
  local batch = batches.get(id)
  if not batch or batch.za then return false end
  batches.set(batch, 's', 'cancelling')
  call('SADD', P .. 'bc', id)
  state.touched[id] = true
  return true
end

-- End up to `limit` of what waits of a batch that is being cancelled; how many.
function batches.sweep(batch, limit)
  local count = 0
  for _, id in ipairs(call('SMEMBERS', P .. 'bm:' .. batch.id)) do
    local message = messages.load(id)
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
