-- cancel_batch: nothing more of a batch is leased from here on; false when it had ended, or is not known.
-- sweep_cancelled: ends one slice of what waits of batches that are being cancelled; how many. Safe to repeat.
-- pause_batch: leases nothing more of one until resume_batch. A small batch that is cancelled ends at once.
verbs.cancel_batch = function(id)
  local begun = batches.begin_cancel(id)
  if begun then
    batches.sweep(batches.get(id), SWEEP_LIMIT_AT_CANCEL)
    batches.finish()
  end
  tell()
  return begun
end

verbs.pause_batch = function(id) return batches.pause(id, 1) end

verbs.resume_batch = function(id) return batches.pause(id, 0) end

verbs.sweep_cancelled = function()
  local count = 0
  for _, id in ipairs(call('SMEMBERS', P .. 'bc')) do
    local batch = batches.get(id)
    if batch then
      if batch.s == 'cancelling' then
        count = count + batches.sweep(batch, SWEEP_LIMIT - count)
      else
        count = count + batches.sweep_held(batch, SWEEP_LIMIT - count)
      end
      state.touched[id] = true
      batches.finish()
    end
    if count >= SWEEP_LIMIT then return SWEEP_LIMIT end
  end
  return count
end
