-- expire: takes back what workers hold whose lease has ended, as losses that are due at once; how many claims.
verbs.expire = function()
  local count = 0
  for _, worker in ipairs(call('ZRANGEBYSCORE', P .. 'workers', '-inf', now)) do
    count = count + messages.take_back_all(worker, true)
  end
  return count
end

-- remove_idle: removes those of a slice of flow keys that no code declares and that hold nothing; how many. Safe to repeat.
verbs.remove_idle = function() return flows.sweep() end
