-- What all verbs share: the namespace's prefix, the time, and values as they come in and go out.
-- KEYS[1] is `<prefix>meta`; all other keys begin with the same prefix and hash tag, and so lie in its slot.
-- ARGV[1] is one JSON array: [time in ms or null, number of the asking store, [[verb, argument, …], …], in a cluster].
local call = redis.call
local NULL = cjson.null
local META = KEYS[1]
local P = string.sub(META, 1, -5)
local asked = cjson.decode(ARGV[1])
-- While a slot is being moved its keys are spread over two nodes, and those that are not here look as if there were
-- none. Two keys that never exist are refused by both nodes then, before anything is read or written.
if asked[4] then call('EXISTS', META .. '?', META .. '??') end
local SELF = asked[2]
local now = asked[1]
if now == NULL then
  local time = call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local NEVER = 9007199254740991
local SLICE = 2000
local AT_ONCE = 200
local CHUNK = 1000
local NOW = string.format('%.0f', now)
local verbs, batches, buffer, effects, ending, flows = {}, {}, {}, {}, {}, {}
local lanes, messages, steps, waiting, smooth, rights = {}, {}, {}, {}, {}, {}
-- told: something became due or ended, of which other processes are told. touched: batches that may have ended. broken:
-- batches whose walk broke off.
local state = { told = false, touched = {}, broken = {} }

-- What came in: null is nothing.
local function opt(value)
  if value == NULL then return nil end
  return value
end

-- What goes out: nothing is null.
local function out(value)
  if value == nil or value == false then return NULL end
  return value
end

-- Numbers of more than 14 digits go out as text, since cjson would round them.
local function big(number)
  if number and number > 99999999999999 then return string.format('%.0f', number) end
  return out(number)
end

-- A flat reply of names and values as a table.
local function record_of(reply)
  local found = {}
  for place = 1, #reply, 2 do found[reply[place]] = reply[place + 1] end
  return found
end

-- Call `act` with slices of a list that are short enough to be arguments of one command.
local function sliced(list, act)
  for first = 1, #list, CHUNK do
    act({ unpack(list, first, math.min(first + CHUNK - 1, #list)) }, first)
  end
end

-- Carry out a verb that may fail alone: whether it did, and its answer or what it failed with.
local function tried(verb, ...)
  local fine, answer = pcall(verb, ...)
  if not fine then answer = type(answer) == 'table' and (answer.err or 'unknown') or tostring(answer) end
  return fine, answer
end

local function tell() state.told = true end
