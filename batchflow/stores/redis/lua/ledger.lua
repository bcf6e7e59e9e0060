-- mark: marks ids as processed, until `ttl` ms from now or for good; the latest holds. Some that have expired go, since
-- nobody prunes a ledger beside another engine. forget: takes marks away, all of them where no ids are named; how many
-- there were. Safe to repeat.
local EXPIRED = 100

verbs.mark = function(workflow, ids, ttl)
  local until_ = opt(ttl) and now + ttl or '+inf'
  if #ids == 0 then return end
  call('SADD', P .. 'ws', workflow)
  local gone = call('ZRANGEBYSCORE', P .. 'l:' .. workflow, '-inf', now, 'LIMIT', 0, EXPIRED)
  if #gone > 0 then call('ZREM', P .. 'l:' .. workflow, unpack(gone)) end
  sliced(ids, function(part)
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
  if not opt(ids) then
    count = call('ZCARD', key)
    call('DEL', key)
  else
    sliced(ids, function(part) count = count + call('ZREM', key, unpack(part)) end)
  end
  return count
end
