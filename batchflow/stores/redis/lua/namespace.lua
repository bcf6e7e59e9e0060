-- Whether the server takes what a group is about to write. Asked before anything is written: a script that is stopped
-- in its midst leaves half of its writes behind.
-- Those of these commands that the user may not run. A server older than 7 does not tell.
function namespace.refused_commands(commands)
  local found = {}
  for _, command in ipairs(redis.acl_check_cmd and commands or {}) do
    local about = command == 'PUBLISH' and P .. CHANNEL or META
    -- Never with too few arguments, at which servers of version 7.0 crash; more than it takes are not looked at.
    if not redis.acl_check_cmd(command, about, about, about, about) then found[#found + 1] = command end
  end
  return found
end

-- A right that is missing is told by the command then, and nothing is half done.
local function only_reads(operations)
  for _, operation in ipairs(operations) do
    if not reads[operation[1]] then return false end
  end
  return not plain[2]
end

local SETTING_UP = { open = true, migrate = true, founded = true }

-- What to answer to the whole group where some of COMMANDS, all that the script runs, are missing, or another version has
-- migrated the namespace meanwhile; what sets a namespace up tells itself.
function namespace.refusal(operations)
  if operations[1] and SETTING_UP[operations[1][1]] then return nil end
  local schema = call('HGET', META, 'schema')
  if schema and tonumber(schema) ~= SCHEMA then return 'SCHEMA ' .. schema end
  if only_reads(operations) then return nil end
  local found = namespace.refused_commands(COMMANDS)
  if #found > 0 then return 'NOPERM its user may not run ' .. table.concat(found, ', ') end
end

-- What a claim is answered by a server that is full: what it leases could not be recorded. A full server refuses what
-- takes memory as long as a script has written nothing, and everything after that is let through; so a claim, which
-- begins with what makes room, would come off, and the first step of what it leased would not.
function namespace.out_of_memory(operations)
  for _, operation in ipairs(operations) do
    if operation[1] == 'claim' then
      state.claimed_at = tonumber(call('HGET', META, 'claims') or 0)
      local reply = redis.pcall('HSET', META, 'claims', NOW)
      return type(reply) == 'table' and reply.err or nil
    end
  end
end

-- open: sets an empty namespace up. Its schema is stored once; the answer is the schema it has, a number for the asking
-- store, which no other store of the namespace has had, and those of the commands that its user may not run: then
-- nothing is done. A server older than 7 does not tell.
verbs.open = function(schema, commands)
  local refused = namespace.refused_commands(commands)
  if #refused > 0 then return { schema, 0, refused } end
  call('HSETNX', META, 'schema', schema)
  return { tonumber(call('HGET', META, 'schema')), call('HINCRBY', META, 'stores', 1), refused }
end

-- founded: when the namespace was set up, as a text that no other setting up has; one that holds nothing any more is set
-- up anew, and its stores are with_numbers on from the asking one's number. Safe to repeat.
verbs.founded = function(schema, number)
  local known = call('HGET', META, 'founded')
  if known then return known end
  call('HSETNX', META, 'schema', schema)
  if tonumber(call('HGET', META, 'stores') or 0) < number then call('HSET', META, 'stores', number) end
  known = NOW .. '-' .. number
  call('HSET', META, 'founded', known)
  return known
end

-- migrate: brings a namespace that an older version has made to SCHEMA, one step of MIGRATIONS after the other, all in this
-- one call; whoever works with the older schema is refused from then on. The schema it has then. Safe to repeat.
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
