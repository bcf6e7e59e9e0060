-- cancel_batch: nothing more of a batch is leased from here on; false when it had ended, or is not known.
-- sweep_cancelled: ends one slice of what waits of batches that are being cancelled; how many. Safe to repeat.
verbs.cancel_batch = function(id)
  local begun = batches.begin_cancel(id)
  tell()
  return begun
end

verbs.sweep_cancelled = function()
  local count = 0
  for _, id in ipairs(call('SMEMBERS', P .. 'bc')) do
    local batch = batches.get(id)
    if batch then
      count = count + batches.sweep(batch, SLICE - count)
      state.touched[id] = true
      batches.finish()
    end
    if count >= SLICE then return SLICE end
  end
  return count
end
