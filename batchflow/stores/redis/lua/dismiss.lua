-- dismiss: forgets a worker; what it still holds is due at once, without a loss. Safe to repeat.
verbs.dismiss = function(worker)
  if call('ZSCORE', P .. 'workers', worker) then messages.take_back_all(worker, false) end
end
