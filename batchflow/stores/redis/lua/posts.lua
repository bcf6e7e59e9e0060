-- Posts: messages with a log. `pl:<id>` is the log of a post: t: its tenant, c: the key of its CREATED entry, q: the queue
-- where it waits or has a place, m: its message while it waits there, cr: its cancellation was requested, <key>: an entry as
-- state, time and detail, a line each.
-- `lg:<tenant>` has the entries of a tenant by key, as `<key>:<id>`, `po:<tenant>` its open posts by the keys of their CREATED
-- entries, `pe` all other posts by the time of their latest entry. `pd` has the post of each deduplication key, and `px`
-- these keys by the time of that post.
local EXPIRED = 100

local function log_of(id) return P .. 'pl:' .. id end

function posts.is_open(id, tenant) return call('ZSCORE', P .. 'po:' .. tenant, id) end

-- Add an entry to the log of a post. Returns the key of one that is CREATED.
function posts.log(id, tenant, state, at, detail)
  local key = call('HINCRBY', META, 'log', 1)
  local entry = state .. '\n' .. string.format('%.0f', at) .. '\n' .. detail
  call('ZADD', P .. 'lg:' .. tenant, key, key .. ':' .. id)
  if state == 'CREATED' then
    call('HSET', log_of(id), 't', tenant, key, entry, 'c', key)
    call('ZADD', P .. 'po:' .. tenant, key, id)
    call('ZREM', P .. 'pe', id)
    return key
  end
  call('HSET', log_of(id), 't', tenant, key, entry)
  if LAST_STATES[state] then call('ZREM', P .. 'po:' .. tenant, id) end
  if LAST_STATES[state] or not posts.is_open(id, tenant) then call('ZADD', P .. 'pe', at, id) end
end

-- Publish a post. Returns the id of the post, and whether it is that of an earlier one with the same deduplication key.
function posts.post(wire)
  local id, tenant, dedup = wire[POST.id], wire[POST.tenant], or_nil(wire[POST.dedup])
  if call('EXISTS', log_of(id), P .. 'm:' .. id) > 0 then return { id, false } end
  if dedup then
    local used = call('ZSCORE', P .. 'px', dedup)
    if used and tonumber(used) > now - DEDUP_WINDOW_MS then return { call('HGET', P .. 'pd', dedup), true } end
    call('ZADD', P .. 'px', now, dedup)
    call('HSET', P .. 'pd', dedup, id)
    posts.forget_dedup(EXPIRED)
  end
  local key, queue = posts.log(id, tenant, 'CREATED', now, wire[POST.description]), or_nil(wire[POST.queue])
  if queue then
    queues.join(tenant, queue, id, key, wire[POST.message])
  else
    messages.publish(wire[POST.message])
  end
  return { id, false }
end

-- An open post has ended as cancelled: its place in a queue is free.
function posts.end_cancelled(id)
  local tenant = call('HGET', log_of(id), 't')
  if not tenant or not posts.is_open(id, tenant) then return end
  posts.log(id, tenant, 'CANCELED', now, '{}')
  queues.leave(id)
end

-- Forget deduplication keys whose time is over. Returns how many.
function posts.forget_dedup(limit)
  local over = string.format('%.0f', now - DEDUP_WINDOW_MS)
  local gone = call('ZRANGEBYSCORE', P .. 'px', '-inf', over, 'LIMIT', 0, limit)
  in_slices(gone, function(part)
    call('ZREM', P .. 'px', unpack(part))
    call('HDEL', P .. 'pd', unpack(part))
  end)
  return #gone
end

-- The keys of the entries of a post.
local function keys_of(id)
  local found = {}
  for _, field in ipairs(call('HKEYS', log_of(id))) do found[#found + 1] = tonumber(field) end
  return found
end

-- Remove the logs of posts whose latest entry is older than this. Returns how many entries they had.
function posts.prune(before, limit)
  local count = 0
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'pe', '-inf', '(' .. string.format('%.0f', before), 'LIMIT', 0, limit)) do
    local tenant, members = call('HGET', log_of(id), 't'), {}
    for _, key in ipairs(keys_of(id)) do members[#members + 1] = key .. ':' .. id end
    in_slices(members, function(part) call('ZREM', P .. 'lg:' .. tenant, unpack(part)) end)
    call('DEL', log_of(id))
    call('ZREM', P .. 'pe', id)
    count = count + #members
    if count >= limit then break end
  end
  return count
end

-- post: publishes posts; of each the id, and whether it is that of an earlier one. cancel_posts: cancels open posts of a
-- tenant, and returns their ids. log: adds entries.
verbs.post = function(list)
  local posted = {}
  for place, post in ipairs(list) do posted[place] = posts.post(post) end
  return posted
end

local function cancel(id, tenant)
  local waits, requested = unpack(call('HMGET', log_of(id), 'm', 'cr'))
  local message = messages.load(id)
  if not posts.is_open(id, tenant) or not (waits or message) then return false end
  if not requested then
    posts.log(id, tenant, 'CANCEL_REQUESTED', now, '{}')
    call('HSET', log_of(id), 'cr', 1)
  end
  if waits then
    queues.drop_waiting(id)
    posts.end_cancelled(id)
  elseif message.o then
    messages.cancel_leased(id, message)
  else
    settling.finish(id, message, { how = 'cancelled' })
  end
  return true
end

verbs.cancel_posts = function(tenant, ids)
  local found = {}
  for _, id in ipairs(ids) do
    if cancel(id, tenant) then found[#found + 1] = id end
  end
  return found
end

verbs.log = function(list)
  for _, entry in ipairs(list) do posts.log(unpack(entry)) end
end

-- log_entries: entries of a tenant, or of one of its posts, the latest first. open_posts: CREATED entries of those that are
-- open. created_entries: those of these posts. Each is [key, post, tenant, state, time, detail].
local function row(id, tenant, key)
  local state, at, detail = string.match(call('HGET', log_of(id), key), '^(.-)\n(.-)\n(.*)$')
  return { tonumber(key), id, tenant, state, tonumber(at), detail }
end

reads.log_entries = function(tenant, before, limit, id)
  before, id = or_nil(before), or_nil(id)
  local rows = {}
  if id and call('HGET', log_of(id), 't') == tenant then
    local found = keys_of(id)
    table.sort(found, function(one, other) return one > other end)
    for _, key in ipairs(found) do
      if #rows < limit and (not before or key < before) then rows[#rows + 1] = row(id, tenant, key) end
    end
  elseif not id then
    local last = before and '(' .. string.format('%.0f', before) or '+inf'
    for place, member in ipairs(call('ZREVRANGEBYSCORE', P .. 'lg:' .. tenant, last, '-inf', 'LIMIT', 0, limit)) do
      local key, of = string.match(member, '^(%d+):(.*)$')
      rows[place] = row(of, tenant, key)
    end
  end
  return rows
end

reads.open_posts = function(tenant, after, limit)
  local rows, first = {}, '(' .. string.format('%.0f', after)
  local found = call('ZRANGEBYSCORE', P .. 'po:' .. tenant, first, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
  for place = 1, #found, 2 do rows[#rows + 1] = row(found[place], tenant, found[place + 1]) end
  return rows
end

reads.created_entries = function(tenant, ids)
  local rows = {}
  for _, id in ipairs(ids) do
    local of, key = unpack(call('HMGET', log_of(id), 't', 'c'))
    if of == tenant and key then rows[#rows + 1] = row(id, tenant, key) end
  end
  return rows
end
