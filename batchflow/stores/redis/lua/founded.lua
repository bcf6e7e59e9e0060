-- founded: when the namespace was set up, as a text that no other setting up has; one that holds nothing any more is set
-- up anew, and its stores are numbered on from the asking one's number. Safe to repeat.
verbs.founded = function(schema, number)
  local known = call('HGET', META, 'founded')
  if known then return known end
  call('HSETNX', META, 'schema', schema)
  if tonumber(call('HGET', META, 'stores') or 0) < number then call('HSET', META, 'stores', number) end
  known = NOW .. '-' .. number
  call('HSET', META, 'founded', known)
  return known
end
