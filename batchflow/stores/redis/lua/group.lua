-- A whole group of operations in one call: each is carried out by itself, and one that fails fails alone (a verb looks
-- before it writes). The answer is a JSON array with, for each, [true, answer] or [false, error].
local GATHERS = { settle = true }
local function carry_out(keys, args)
  begin(keys, args)
  local missing = rights.missing(operations)
  if missing then return redis.error_reply(missing) end
  local full = rights.full(operations)
  local except = smooth.carry_out()
  local answers = {}
  for place, operation in ipairs(operations) do
    local verb = verbs[operation[1]] or reads[operation[1]]
    if not GATHERS[operation[1]] then buffer.flush() end
    local fine, answer = false, full
    if not full or operation[1] ~= 'claim' then fine, answer = tried(verb, unpack(operation, 2, 10)) end
    answers[place] = { fine, out(answer) }
    if fine and answer == false then answers[place][2] = false end
  end
  batches.finish()
  buffer.flush()
  batches.flush()
  lanes.flush()
  flows.flush()
  if state.told then call('PUBLISH', P .. CHANNEL, SELF) end
  return cjson.encode({ answers, except })
end
