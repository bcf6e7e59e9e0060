-- renew: extends a worker's lease; false when it is not known any more. Claims (id, fence) that hang are taken back as
-- losses at once; those that it does not hold with that fence are left alone.
verbs.renew = function(worker, lease, hung, hanging)
  if not call('ZSCORE', P .. 'workers', worker) then return false end
  -- A full server lets everything through after a write that makes room: a lease takes none that it did not have.
  call('HDEL', P .. 'wi', '')
  for _, one in ipairs(hung) do
    local message = messages.held(one[1], one[2])
    if message and message.o == worker then messages.take_back(one[1], message, true) end
  end
  call('ZADD', P .. 'workers', now + lease, worker)
  local about = cjson.decode(call('HGET', P .. 'wi', worker) or '[0,0,0,0]')
  call('HSET', P .. 'wi', worker, cjson.encode({ about[1], now, about[3], hanging }))
  return true
end
