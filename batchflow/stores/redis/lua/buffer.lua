-- Writes of many operations to the same keys, collected into one command for each key. They are written before anything
-- reads those keys, and at the end; commands that free memory go first, so that a full server accepts all or nothing.
local FREEING = { DEL = true, HDEL = true }
on_each_call(function() buffer.lists, buffer.order, buffer.gone = {}, {}, {} end)

function buffer.list(command, key)
  local lists = buffer.lists[command]
  if not lists then
    lists = {}
    buffer.lists[command] = lists
  end
  local list = lists[key]
  if not list then
    list = { command = command, key = key }
    lists[key] = list
    buffer.order[#buffer.order + 1] = list
  end
  return list
end

function buffer.add(command, key, value)
  local list = buffer.list(command, key)
  list[#list + 1] = value
end

function buffer.pair(command, key, name, value)
  local list = buffer.list(command, key)
  list[#list + 1] = name
  list[#list + 1] = value
end

-- Delete the hash of a message.
function buffer.drop(id)
  buffer.add('DEL', '', P .. 'm:' .. id)
  buffer.gone[id] = true
end

local function write(list)
  in_slices(list, function(part)
    if list.command == 'DEL' then
      call('DEL', unpack(part))
    else
      call(list.command, list.key, unpack(part))
    end
  end)
end

function buffer.flush()
  local order = buffer.order
  if #order == 0 then return end
  buffer.lists, buffer.order, buffer.gone = {}, {}, {}
  for _, list in ipairs(order) do
    if FREEING[list.command] then write(list) end
  end
  for _, list in ipairs(order) do
    if not FREEING[list.command] then write(list) end
  end
end
