-- open_batch: stores a batch with its first messages; false, and nothing is done, when its id is known or what holds
-- others off is open.
-- [id, workflow, destination and flow of its items, parameters, destination and flow of its completion, how long marks
-- last, keep results, force, label, parent, its step, depth, headers, ledger, who is told of an item's death, its ids are
-- named, what holds others off]
verbs.open_batch = function(wire, first)
  local id = wire[1]
  local key = P .. 'b:' .. id
  local dedup = opt(wire[19])
  if call('EXISTS', key) == 1 or dedup and call('HEXISTS', P .. 'dk', dedup) == 1 then return false end
  local sequence = call('HINCRBY', META, 'batches', 1)
  local fields = {
    'w', wire[2], 's', 'pending', 'd', wire[3], 'k', wire[4][1], 'cf', cjson.encode(wire[7]), 'kr', wire[9] and 1 or 0,
    'fo', wire[10] and 1 or 0, 'dp', wire[14], 't', now, 'sq', sequence, 'kf', cjson.encode(wire[4]), 'lg', wire[16],
    'na', wire[18] and 1 or 0, 'ge', 1,
  }
  for _, field in ipairs({ 'en', 'wk', 'pg', 'ch', 'el', 'op', 'su', 'fa', 'ca', 'ap', 'fl', 'du', 'lo', 'wm', 'hi', 'sw', 'pz' }) do
    fields[#fields + 1] = field
    fields[#fields + 1] = 0
  end
  for field, value in pairs({ cp = opt(wire[6]), tt = opt(wire[8]), L = opt(wire[11]), p = opt(wire[12]), ps = opt(wire[13]),
    hd = opt(wire[15]), of = opt(wire[17]), od = dedup }) do
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
  call('HSET', key, unpack(fields))
  flows.follow(wire[4])
  flows.add(wire[4][1], 'ob', 1)
  if dedup then call('HSET', P .. 'dk', dedup, id) end
  if opt(wire[11]) then call('ZADD', P .. 'bl:' .. wire[11], sequence, id) end
  call('SET', P .. 'p:' .. id, wire[5])
  call('ZADD', P .. 'bs', sequence, id)
  call('ZADD', P .. 'bo', sequence, id)
  call('ZADD', P .. 'bw:' .. wire[2], sequence, id)
  call('SADD', P .. 'ws', wire[16])
  for _, message in ipairs(first) do messages.publish(message) end
  local parent = opt(wire[12])
  if parent then
    call('SADD', P .. 'kidb:' .. parent, id)
    waiting.link(parent)
  end
  return true
end
