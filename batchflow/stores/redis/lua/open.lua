-- open: sets an empty namespace up. Its schema is stored once; the answer is the schema it has and a number for the
-- asking store, which no other store of the namespace has had.
verbs.open = function(schema)
  call('HSETNX', META, 'schema', schema)
  return { tonumber(call('HGET', META, 'schema')), call('HINCRBY', META, 'stores', 1) }
end
