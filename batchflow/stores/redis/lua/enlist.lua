-- enlist: makes a worker known until its lease ends; its claims are its own until then. Safe to repeat.
verbs.enlist = function(worker, lease, concurrency)
  local known = call('HGET', P .. 'wi', worker)
  local since = known and cjson.decode(known)[1] or now
  call('ZADD', P .. 'workers', now + lease, worker)
  call('HSET', P .. 'wi', worker, cjson.encode({ since, now, concurrency }))
end
