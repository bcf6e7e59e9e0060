-- workers: those named after `after`, by name, with what they hold by destination, as far as a bounded look goes:
-- [rows, the name to go on after or null].
local LOOK = 10000

-- How many messages of each destination a worker holds, and how many in all.
local function held_by(worker)
  local found, count = {}, 0
  for _, id in ipairs(call('HKEYS', P .. 'w:' .. worker)) do
    local destination, item = unpack(call('HMGET', P .. 'm:' .. id, 'd', 'i'))
    local batch = not destination and item and batches.get(string.sub(id, 1, -12))
    destination = destination or batch and batch.d
    if destination then found[destination] = (found[destination] or 0) + 1 end
    count = count + 1
  end
  return found, count
end

reads.workers = function(after)
  local known = record_of(call('ZRANGE', P .. 'workers', 0, -1, 'WITHSCORES'))
  local names, rows, looked = {}, {}, 0
  for name in pairs(known) do
    if name > after then names[#names + 1] = name end
  end
  table.sort(names)
  for place, name in ipairs(names) do
    local since, seen, concurrency, hanging = unpack(cjson.decode(call('HGET', P .. 'wi', name) or '[0,0,0,0]'))
    local holds, count = held_by(name)
    local ends = tonumber(known[name])
    rows[place] = { name, since, seen, big(ends), concurrency, hanging, holds, ends <= now }
    looked = looked + count
    if looked >= LOOK and place < #names then return { rows, name } end
  end
  return { rows, NULL }
end
