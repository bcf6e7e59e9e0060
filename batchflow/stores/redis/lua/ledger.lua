-- Ledgers: the ids of processed items.
-- mark: marks ids as processed, for `ttl` ms or for good; the latest mark counts. Removes some expired marks, since
-- nobody prunes a ledger beside another engine. forget: removes marks, all of them if no ids are given, and returns how
-- many. Safe to repeat.
local EXPIRED = 100

verbs.mark = function(workflow, ids, ttl)
  local until_ = or_nil(ttl) and now + ttl or '+inf'
  if #ids == 0 then return end
  call('SADD', P .. 'ws', workflow)
  local gone = call('ZRANGEBYSCORE', P .. 'l:' .. workflow, '-inf', now, 'LIMIT', 0, EXPIRED)
  if #gone > 0 then call('ZREM', P .. 'l:' .. workflow, unpack(gone)) end
  in_slices(ids, function(part)
    local pairs_ = {}
    for _, id in ipairs(part) do
      pairs_[#pairs_ + 1] = until_
      pairs_[#pairs_ + 1] = id
    end
    call('ZADD', P .. 'l:' .. workflow, unpack(pairs_))
  end)
end

verbs.forget = function(workflow, ids)
  local key = P .. 'l:' .. workflow
  local count = 0
  if not or_nil(ids) then
    count = call('ZCARD', key)
    call('DEL', key)
  else
    in_slices(ids, function(part) count = count + call('ZREM', key, unpack(part)) end)
  end
  return count
end

-- processed: the ids that are marked and whose mark has not expired. ledgers: the names of ledgers that are not empty.
-- marks: of a ledger [id, expires at], after an id, in the order in which they expire.
reads.processed = function(workflow, ids)
  local found = {}
  in_slices(ids, function(part)
    for place, score in ipairs(call('ZMSCORE', P .. 'l:' .. workflow, unpack(part))) do
      if score and tonumber(score) > now then found[#found + 1] = part[place] end
    end
  end)
  return found
end

reads.ledgers = function()
  local found = {}
  for _, name in ipairs(call('SMEMBERS', P .. 'ws')) do
    if call('ZCARD', P .. 'l:' .. name) > 0 then found[#found + 1] = name end
  end
  table.sort(found)
  return found
end

reads.marks = function(ledger, after, limit)
  local key = P .. 'l:' .. ledger
  -- If that mark has been removed meanwhile, all marks are returned once more.
  local rank = or_nil(after) and call('ZRANK', key, after)
  local from = rank and rank + 1 or call('ZCOUNT', key, '-inf', now)
  local rows, reply = {}, call('ZRANGE', key, from, from + limit - 1, 'WITHSCORES')
  for place = 1, #reply, 2 do
    local ends = reply[place + 1]
    rows[#rows + 1] = { reply[place], ends == 'inf' and NULL or string.format('%.0f', tonumber(ends)) }
  end
  return rows
end
