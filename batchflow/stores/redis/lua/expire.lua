-- expire: takes back what workers hold whose lease has ended, as losses that are due at once; how many claims.
verbs.expire = function()
  local count = 0
  for _, worker in ipairs(call('ZRANGEBYSCORE', P .. 'workers', '-inf', now)) do
    count = count + messages.take_back_all(worker, true)
  end
  flows.sweep()
  return count
end
