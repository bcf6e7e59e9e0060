-- Lanes: what waits for one destination under one flow key, by the time it is due. A member is the id of a message, or
-- a range of items of a batch that nobody has claimed yet: `<id of the first one's run> \n <last number>`.
-- `rd:<destination>` holds for each key when the earliest of its lane is due.
lanes.ready = {}

function lanes.name(destination, key) return P .. 'q:' .. key .. '|' .. destination end

function lanes.ready_by(destination, key, due)
  local name = destination .. '\n' .. key
  local known = lanes.ready[name]
  if not known or known > due then
    call('ZADD', P .. 'rd:' .. destination, 'LT', due, key)
    lanes.ready[name] = due
  end
  tell()
end

function lanes.add(destination, key, id, due)
  call('ZADD', lanes.name(destination, key), due, id)
  flows.add(key, 'w', 1)
  lanes.ready_by(destination, key, due)
end

-- The batch, first and last number of a range; nil for a message.
function lanes.range(member)
  local cut = string.find(member, '\n', 1, true)
  if not cut then return nil end
  return string.sub(member, 1, cut - 12), tonumber(string.sub(member, cut - 9, cut - 1)), tonumber(string.sub(member, cut + 1))
end

function lanes.range_of(batch, first, last) return string.format('%s.r%09d\n%d', batch, first, last) end

function lanes.add_range(lane, batch, first, last, due)
  local member = lanes.range_of(batch, first, last)
  call('ZADD', lane, due, member)
  call('ZADD', P .. 'r:' .. batch, first, member)
end

function lanes.drop_range(lane, batch, member)
  call('ZREM', lane, member)
  call('ZREM', P .. 'r:' .. batch, member)
end

-- Take up to `want` items out of a range, at least those in front that are not open any more: [number, item id], …
function lanes.cut(lane, member, due, want)
  buffer.flush()
  local id, first, last = lanes.range(member)
  local batch = batches.get(id)
  local found, at = {}, first
  if batch and not batch.za and batch.s ~= 'cancelling' then
    while at <= last and #found < want do
      local stop = math.min(last, at - at % 64 + 63, at + want - #found - 1)
      local numbers = {}
      for number = at, stop do numbers[#numbers + 1] = number end
      for place, value in ipairs(call('HMGET', batches.bucket(id, at), unpack(numbers))) do
        if value and string.sub(value, 1, 1) == 'o' then found[#found + 1] = { at + place - 1, string.sub(value, 2) } end
      end
      at = stop + 1
    end
  else
    at = last + 1
  end
  lanes.drop_range(lane, id, member)
  if at <= last then lanes.add_range(lane, id, at, last, due) end
  return found, id, batch
end

-- When the first of a lane is due; ranges that hold nothing any more are removed.
function lanes.head(lane)
  buffer.flush()
  while true do
    local first = call('ZRANGE', lane, 0, 0, 'WITHSCORES')
    if #first == 0 then return nil end
    local member, due = first[1], tonumber(first[2])
    local id, number, last = lanes.range(member)
    if not id then return due end
    local batch = batches.get(id)
    local alive = batch and not batch.za and batch.s ~= 'cancelling'
    local value = alive and call('HGET', batches.bucket(id, number), number)
    if value and string.sub(value, 1, 1) == 'o' then return due end
    lanes.drop_range(lane, id, member)
    if alive and number < last then lanes.add_range(lane, id, number + 1, last, due) end
  end
end

-- Some of a lane were taken: find the earliest of those that are left.
function lanes.recount(destination, key)
  local due = lanes.head(lanes.name(destination, key))
  lanes.ready[destination .. '\n' .. key] = due
  if due then
    call('ZADD', P .. 'rd:' .. destination, due, key)
  else
    call('ZREM', P .. 'rd:' .. destination, key)
  end
end
