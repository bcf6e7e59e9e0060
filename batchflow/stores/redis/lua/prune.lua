-- prune: removes one slice of finished runs, dead letters and ended batches that are older than the retention, and of
-- marks that have expired; how many rows went. To be called until it is 0.
local function remove_run(id, index)
  call('DEL', P .. 'm:' .. id)
  call('ZREM', P .. 'runs', id)
  call('ZREM', P .. index, id)
end

local function prune_runs(index, before, limit)
  local ids = call('ZRANGEBYSCORE', P .. index, '-inf', '(' .. string.format('%.0f', before), 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do
    if index == 'dead' then
      local batch, key = unpack(call('HMGET', P .. 'm:' .. id, 'b', 'k'))
      if batch then call('ZREM', P .. 'bd:' .. batch, id) end
      if key then flows.add(key, 'dl', -1) end
    end
    remove_run(id, index)
  end
  return #ids
end

local function prune_marks(limit)
  local count = 0
  for _, workflow in ipairs(call('SMEMBERS', P .. 'ws')) do
    local key = P .. 'l:' .. workflow
    local gone = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, limit - count)
    sliced(gone, function(part) call('ZREM', key, unpack(part)) end)
    count = count + #gone
    if count >= limit then break end
  end
  return count
end

-- Items go bucket by bucket, from the highest down, so that `hi` says where to go on.
local function prune_batch(batch, limit)
  local count = 0
  while batch.hi > 0 and count < limit do
    local at = batch.hi - 1
    count = count + call('HLEN', batches.bucket(batch.id, at))
    call('DEL', batches.bucket(batch.id, at), batches.ends(batch.id, at), batches.data(batch.id, at))
    batches.set(batch, 'hi', at - at % BUCKET)
  end
  if batch.hi > 0 then return count end
  local id = batch.id
  batches.cache[id] = nil
  call('DEL', P .. 'b:' .. id, P .. 'p:' .. id, P .. 'bm:' .. id, P .. 'bd:' .. id, P .. 'r:' .. id)
  for _, index in ipairs({ 'bs', 'be', 'bo', 'bw:' .. batch.w, batch.L and 'bl:' .. batch.L or 'bs' }) do call('ZREM', P .. index, id) end
  return count + 1
end

verbs.prune = function(retention, limit)
  local before = now - retention
  local count = prune_marks(limit) + prune_runs('ended', before, limit) + prune_runs('dead', before, limit)
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'be', '-inf', '(' .. string.format('%.0f', before), 'LIMIT', 0, 100)) do
    local batch = batches.get(id)
    if batch and batch.wk == 0 then return count + prune_batch(batch, limit) end
  end
  return count
end
