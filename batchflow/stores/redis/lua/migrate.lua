-- migrate: brings a namespace that an older version has made to SCHEMA, one step of MIGRATIONS after the other, all in this
-- one call; whoever works with the older schema is refused from then on. The schema it has then. Safe to repeat.
verbs.migrate = function()
  local schema = tonumber(call('HGET', META, 'schema'))
  while schema < SCHEMA do
    schema = schema + 1
    MIGRATIONS[schema]()
    call('HSET', META, 'schema', schema)
  end
  tell()
  return schema
end
