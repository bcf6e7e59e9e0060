-- open: sets an empty namespace up. Its schema is stored once; the answer is the schema it has, a number for the asking
-- store, which no other store of the namespace has had, and those of the commands that its user may not run: then
-- nothing is done. A server older than 7 does not tell.
verbs.open = function(schema, commands)
  local refused = rights.refused(commands)
  if #refused > 0 then return { schema, 0, refused } end
  call('HSETNX', META, 'schema', schema)
  return { tonumber(call('HGET', META, 'schema')), call('HINCRBY', META, 'stores', 1), refused }
end
