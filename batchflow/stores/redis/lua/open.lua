-- open: sets an empty namespace up. Its schema is stored once; the answer is the schema it has, a number for the asking
-- store, which no other store of the namespace has had, and those of the commands that its user may not run: then
-- nothing is done. A server older than 7 does not tell.
local function may_run(command)
  local about = command == 'PUBLISH' and P .. 'changes' or META
  -- Never with too few arguments, at which servers of version 7.0 crash; more than it takes are not looked at.
  return redis.acl_check_cmd(command, about, about, about, about)
end

verbs.open = function(schema, commands)
  local refused = {}
  for _, command in ipairs(redis.acl_check_cmd and commands or {}) do
    if not may_run(command) then refused[#refused + 1] = command end
  end
  if #refused > 0 then return { schema, 0, refused } end
  call('HSETNX', META, 'schema', schema)
  return { tonumber(call('HGET', META, 'schema')), call('HINCRBY', META, 'stores', 1), refused }
end
