-- Shared by all verbs: the namespace's prefix, the time, and the conversion of arguments and answers.
-- A server that keeps functions runs the files once; a server that only runs scripts runs them at every call. So the
-- state of one call is set by `begin` and by the functions given to `on_each_call`, never at the top level of a file,
-- and none of it is left for the next call, however the previous one ended.
local CHUNK = 1000
-- Items that one read looks at.
local LOOK = 6400
local call, NULL, META, P, STORE, now, NOW, operations, plain
-- P: the prefix of all keys; META: the key `meta`; STORE: the number of the calling store; now, NOW: the time in ms, as
-- a number and as text; operations: the verbs of the group; plain: the arguments of the fast path. Verbs that write,
-- and verbs that only read.
local verbs, reads = {}, {}
local batches, buffer, events, fast_path, flows, items, lanes = {}, {}, {}, {}, {}, {}, {}
local messages, namespace, nested, posts, queues, retries = {}, {}, {}, {}, {}, {}
local settling, steps, wire_runs, workers = {}, {}, {}, {}
-- notify: something became due or ended, so that other processes are notified. touched: batches that may have ended.
-- ended: batches that ended, without those that a settlement answers. notices: the other notices. broken: batches whose walk broke off. claimed_at: the time of the
-- previous claim. next_end: when the next pin or pause of a flow key ends by itself.
local state

local beginnings = {}
local function on_each_call(act) beginnings[#beginnings + 1] = act end

-- keys[1] is `<prefix>meta`; all other keys begin with the same prefix and hash tag, so they are in the same slot.
-- args[1] is a JSON array: [time in ms or null, number of the calling store, [[verb, argument, …], …], in a cluster].
local function begin(keys, args)
  -- Neither exists yet while a function is registered.
  call, NULL = redis.call, cjson.null
  META, plain = keys[1], args
  P = string.sub(META, 1, -5)
  local asked = cjson.decode(args[1])
  -- While a slot is moved its keys are spread over two nodes, and a key on the other node looks like a missing one.
  -- Both nodes refuse a command on two keys that never exist, before anything is read or written.
  if asked[4] then call('EXISTS', META .. '?', META .. '??') end
  STORE, operations = asked[2], asked[3]
  now = asked[1]
  if now == NULL then
    local time = call('TIME')
    now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  NOW = string.format('%.0f', now)
  state = { notify = false, touched = {}, ended = {}, notices = {}, broken = {} }
  for _, act in ipairs(beginnings) do act() end
end

-- An argument: null becomes nil.
local function or_nil(value)
  if value == NULL then return nil end
  return value
end

-- A part of an answer: nil and false become null.
local function or_null(value)
  if value == nil or value == false then return NULL end
  return value
end

-- Numbers of more than 14 digits are answered as text, since cjson would round them.
local function number_text(number)
  if number and number > 99999999999999 then return string.format('%.0f', number) end
  return or_null(number)
end

-- A flat reply of names and values as a table.
local function to_table(reply)
  local found = {}
  for place = 1, #reply, 2 do found[reply[place]] = reply[place + 1] end
  return found
end

-- A row of an answer: the values of these columns, in their order.
local function row_of(columns, values)
  local row = {}
  for place, column in ipairs(columns) do row[place] = or_null(values[column]) end
  return row
end

-- Call `act` with slices of a list that are short enough to be arguments of one command.
local function in_slices(list, act)
  for first = 1, #list, CHUNK do
    act({ unpack(list, first, math.min(first + CHUNK - 1, #list)) }, first)
  end
end

-- Run a verb that may fail alone. Returns whether it succeeded, and its answer or error.
local function try(verb, ...)
  local fine, answer = pcall(verb, ...)
  if not fine then answer = type(answer) == 'table' and (answer.err or 'unknown') or tostring(answer) end
  return fine, answer
end

-- Have the other stores of the namespace notified when the call ends.
local function notify_stores() state.notify = true end
