-- register: makes a worker known until its lease ends; its claims are its own until then. Safe to repeat.
verbs.register = function(worker, lease, concurrency)
  local known = cjson.decode(call('HGET', P .. 'wi', worker) or cjson.encode({ now, now, concurrency, 0 }))
  call('ZADD', P .. 'workers', now + lease, worker)
  call('HSET', P .. 'wi', worker, cjson.encode({ known[1], now, concurrency, known[4] }))
end
