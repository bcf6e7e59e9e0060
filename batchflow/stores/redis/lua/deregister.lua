-- deregister: forgets a worker; what it still holds is due at once, without a loss. Safe to repeat.
verbs.deregister = function(worker)
  if call('ZSCORE', P .. 'workers', worker) then messages.take_back_all(worker, false) end
end
