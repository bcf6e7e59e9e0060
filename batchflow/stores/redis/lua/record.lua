-- record: writes a step of a claim that is still held with this fence, with its effects, unless it stands there already.
-- 'stale' or 'cancelled', and nothing is changed, where it may not. An outcome sets failures and losses to none.
verbs.record = function(id, fence, row, list)
  local key = P .. 'm:' .. id
  local held = call('HMGET', key, 'o', 'f', 'c', 'b', 'i')
  if not held[1] or tonumber(held[2]) ~= fence then return 'stale' end
  if held[3] or batches.is_cancelling(held[4] or held[5] and string.sub(id, 1, -12)) then return 'cancelled' end
  local known = false
  local before = list and call('HGET', key, row[1])
  if before then
    local old, new = cjson.decode(before), cjson.decode(row[3])
    known = old[STEP.state] == new[STEP.state] and old[STEP.position] == new[STEP.position]
  end
  -- Nothing was counted before the first claim.
  if row[2] > 0 and fence > 1 then
    call('HSET', key, row[1], row[3], 'x', 0, 'l', 0)
  else
    call('HSET', key, row[1], row[3])
  end
  if list and not known then effects.apply(id, list) end
  return 'recorded'
end
verbs.record_with_effects = verbs.record
