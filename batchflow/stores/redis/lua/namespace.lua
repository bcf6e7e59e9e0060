-- The namespace: setting it up, migrating it, and refusing a group before anything is written: a script that is stopped
-- halfway leaves half of its writes behind.

-- The ones of these commands that the user may not run. A server older than 7 cannot tell.
function namespace.refused_commands(commands)
  local found = {}
  for _, command in ipairs(redis.acl_check_cmd and commands or {}) do
    local about = command == 'PUBLISH' and P .. CHANNEL or META
    -- Never with too few arguments, at which servers of version 7.0 crash; superfluous ones are ignored.
    if not redis.acl_check_cmd(command, about, about, about, about) then found[#found + 1] = command end
  end
  return found
end

-- True if a group only reads: then the refused command itself fails, and nothing is half done.
local function only_reads(operations)
  for _, operation in ipairs(operations) do
    if not reads[operation[1]] then return false end
  end
  return not plain[2]
end

local SETTING_UP = { open = true, migrate = true, founded = true }

-- The error for the whole group if the user may not run one of COMMANDS, or if another version has migrated the
-- namespace. The verbs that set a namespace up check this themselves.
function namespace.refusal(operations)
  if operations[1] and SETTING_UP[operations[1][1]] then return nil end
  local schema = call('HGET', META, 'schema')
  if schema and tonumber(schema) ~= SCHEMA then return 'SCHEMA ' .. schema end
  if only_reads(operations) then return nil end
  local found = namespace.refused_commands(COMMANDS)
  if #found > 0 then return 'NOPERM its user may not run ' .. table.concat(found, ', ') end
end

-- The error for a claim on a server without free memory. Such a server refuses commands that need memory until a script
-- has written something, and accepts everything after that. So a claim, which begins by freeing memory, would succeed,
-- and the first step of what it leased would fail.
function namespace.out_of_memory(operations)
  for _, operation in ipairs(operations) do
    if operation[1] == 'claim' then
      local claimed_at, next_end = unpack(call('HMGET', META, 'claims', 'fe'))
      state.claimed_at, state.next_end = tonumber(claimed_at or 0), next_end and tonumber(next_end)
      local reply = redis.pcall('HSET', META, 'claims', NOW)
      return type(reply) == 'table' and reply.err or nil
    end
  end
end

-- open: sets up an empty namespace. The answer is its schema, a number for the calling store that no other store of the
-- namespace has had, and the commands that the user may not run: if there are any, nothing is done.
verbs.open = function(schema, commands)
  local refused = namespace.refused_commands(commands)
  if #refused > 0 then return { schema, 0, refused } end
  call('HSETNX', META, 'schema', schema)
  return { tonumber(call('HGET', META, 'schema')), call('HINCRBY', META, 'stores', 1), refused }
end

-- founded: when the namespace was set up, as a text that is different each time. A namespace that was emptied is set up
-- again, and the numbers of stores continue from the calling one's. Safe to repeat.
verbs.founded = function(schema, number)
  local known = call('HGET', META, 'founded')
  if known then return known end
  call('HSETNX', META, 'schema', schema)
  if tonumber(call('HGET', META, 'stores') or 0) < number then call('HSET', META, 'stores', number) end
  known = NOW .. '-' .. number
  call('HSET', META, 'founded', known)
  return known
end

-- migrate: brings a namespace of an older version to SCHEMA, one step of MIGRATIONS after the other, all in this call;
-- a process that uses the older schema is refused from then on. The answer is the schema. Safe to repeat.
verbs.migrate = function()
  local schema = tonumber(call('HGET', META, 'schema'))
  while schema < SCHEMA do
    schema = schema + 1
    MIGRATIONS[schema]()
    call('HSET', META, 'schema', schema)
  end
  notify_stores()
  return schema
end
