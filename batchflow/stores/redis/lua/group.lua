-- Runs a group of operations in one call. An operation that fails does so alone: a verb reads before it writes. The
-- answer is JSON: [[[true, answer] or [false, error] of each operation], the exceptions of the fast path, and the batches
-- that ended, if there are any].
local BUFFERED = { settle = true }
local function carry_out(keys, args)
  begin(keys, args)
  local missing = namespace.refusal(operations)
  if missing then return redis.error_reply(missing) end
  local full = namespace.out_of_memory(operations)
  local except = fast_path.run()
  local answers = {}
  for place, operation in ipairs(operations) do
    local verb = verbs[operation[1]] or reads[operation[1]]
    if not BUFFERED[operation[1]] then buffer.flush() end
    local fine, answer = false, full
    if not full or operation[1] ~= 'claim' then fine, answer = try(verb, unpack(operation, 2, 11)) end
    answers[place] = { fine, or_null(answer) }
    if fine and answer == false then answers[place][2] = false end
  end
  batches.end_finished()
  buffer.flush()
  batches.flush()
  lanes.flush()
  flows.flush()
  if state.notify then call('PUBLISH', P .. CHANNEL, STORE) end
  local notices = state.notices
  for id in pairs(state.ended) do notices[#notices + 1] = { 'batch_ended', id } end
  return cjson.encode({ answers, except, notices[1] and notices })
end
