-- open_batch: stores a batch with its first messages; false, and nothing is done, when its id is known or what holds
-- others off is open.
verbs.open_batch = function(wire, first)
  local id = wire[BATCH.id]
  local key = P .. 'b:' .. id
  local dedup = opt(wire[BATCH.open_dedup])
  if call('EXISTS', key) == 1 or dedup and call('HEXISTS', P .. 'dk', dedup) == 1 then return false end
  local sequence = call('HINCRBY', META, 'batches', 1)
  local fields = {
    'w', wire[BATCH.workflow], 's', 'pending', 'd', wire[BATCH.execute], 'k', wire[BATCH.flow][LIMITS.key], 'cf', cjson.encode(wire[BATCH.complete_flow]), 'kr', wire[BATCH.keep_results] and 1 or 0,
    'fo', wire[BATCH.force] and 1 or 0, 'dp', wire[BATCH.depth], 't', now, 'sq', sequence, 'kf', cjson.encode(wire[BATCH.flow]), 'lg', wire[BATCH.ledger],
    'na', wire[BATCH.named] and 1 or 0, 'ge', 1,
  }
  for _, field in ipairs({ 'en', 'wk', 'pg', 'ch', 'el', 'op', 'su', 'fa', 'ca', 'ap', 'fl', 'du', 'lo', 'wm', 'hi', 'sw', 'pz' }) do
    fields[#fields + 1] = field
    fields[#fields + 1] = 0
  end
  for field, value in pairs({ cp = opt(wire[BATCH.complete]), tt = opt(wire[BATCH.ledger_ttl]), L = opt(wire[BATCH.label]), p = opt(wire[BATCH.parent]), ps = opt(wire[BATCH.parent_step]),
    hd = opt(wire[BATCH.headers]), of = opt(wire[BATCH.on_failure]), od = dedup }) do
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
  call('HSET', key, unpack(fields))
  flows.follow(wire[BATCH.flow])
  flows.add(wire[BATCH.flow][LIMITS.key], 'ob', 1)
  if dedup then call('HSET', P .. 'dk', dedup, id) end
  if opt(wire[BATCH.label]) then call('ZADD', P .. 'bl:' .. wire[BATCH.label], sequence, id) end
  call('SET', P .. 'p:' .. id, wire[BATCH.params])
  call('ZADD', P .. 'bs', sequence, id)
  call('ZADD', P .. 'bo', sequence, id)
  call('ZADD', P .. 'bw:' .. wire[BATCH.workflow], sequence, id)
  call('SADD', P .. 'ws', wire[BATCH.ledger])
  for _, message in ipairs(first) do messages.publish(message) end
  local parent = opt(wire[BATCH.parent])
  if parent then
    call('SADD', P .. 'kidb:' .. parent, id)
    waiting.link(parent)
  end
  return true
end
