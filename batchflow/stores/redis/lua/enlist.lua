-- enlist: makes a worker known until its lease ends; its claims are its own until then. Safe to repeat.
verbs.enlist = function(worker, lease)
  call('ZADD', P .. 'workers', now + lease, worker)
end
