-- What all verbs share: the namespace's prefix, the time, and values as they come in and go out.
-- All of this is run once where the server keeps functions, and again at each call where it only runs scripts. So what
-- belongs to one call is set by `begin` and by what `each_call` is given, never where a file is run, and nothing of it is
-- left for the next call, however the one before has ended.
local CHUNK = 1000
local call, NULL, META, P, STORE, now, NOW, operations, plain
-- Verbs that write, and those that only read.
local verbs, reads = {}, {}
local batches, buffer, events, fast_path, flows, items, lanes = {}, {}, {}, {}, {}, {}, {}
local messages, namespace, settling, steps, workers = {}, {}, {}, {}, {}
-- told: something became due or ended, of which other processes are told. touched: batches that may have ended. broken:
-- batches whose walk broke off. claimed_at: when the claim before was.
local state

local beginnings = {}
local function on_each_call(act) beginnings[#beginnings + 1] = act end

-- keys[1] is `<prefix>meta`; all other keys begin with the same prefix and hash tag, and so lie in its slot.
-- args[1] is one JSON array: [time in ms or null, number of the asking store, [[verb, argument, …], …], in a cluster].
local function begin(keys, args)
  -- Neither is there where functions are made.
  call, NULL = redis.call, cjson.null
  META, plain = keys[1], args
  P = string.sub(META, 1, -5)
  local asked = cjson.decode(args[1])
  -- While a slot is being moved its keys are spread over two nodes, and those that are not here look as if there were
  -- none. Two keys that never exist are refused by both nodes then, before anything is read or written.
  if asked[4] then call('EXISTS', META .. '?', META .. '??') end
  STORE, operations = asked[2], asked[3]
  now = asked[1]
  if now == NULL then
    local time = call('TIME')
    now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  NOW = string.format('%.0f', now)
  state = { notify = false, touched = {}, broken = {} }
  for _, act in ipairs(beginnings) do act() end
end

-- What came in: null is nothing.
local function or_nil(value)
  if value == NULL then return nil end
  return value
end

-- What goes out: nothing is null.
local function or_null(value)
  if value == nil or value == false then return NULL end
  return value
end

-- Numbers of more than 14 digits go out as text, since cjson would round them.
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

-- Call `act` with slices of a list that are short enough to be arguments of one command.
local function in_slices(list, act)
  for first = 1, #list, CHUNK do
    act({ unpack(list, first, math.min(first + CHUNK - 1, #list)) }, first)
  end
end

-- Carry out a verb that may fail alone: whether it did, and its answer or what it failed with.
local function try(verb, ...)
  local fine, answer = pcall(verb, ...)
  if not fine then answer = type(answer) == 'table' and (answer.err or 'unknown') or tostring(answer) end
  return fine, answer
end

local function notify_stores() state.notify = true end
