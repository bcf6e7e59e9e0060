-- Posts: messages with a log. `pl:<id>` is the log of a post: t: its tenant, c: the key of its CREATED entry, q: the queue
-- where it waits or has a place, m: its message while it waits there, r, w: its part in a run (see wire_runs.lua), <key>: an
-- entry as state, time and detail, a line each.
-- `lg:<tenant>` has the entries of a tenant by key, as `<key>:<id>`, `po:<tenant>` its open posts by the keys of their CREATED
-- entries, `pe` all other posts by the time of their latest entry. `pd` has the post of each deduplication key, and `px`
-- these keys by the time of that post.
local EXPIRED = 100

local function log_of(id) return P .. 'pl:' .. id end

function posts.is_open(id, tenant) return call('ZSCORE', P .. 'po:' .. tenant, id) end

-- Add an entry to the log of a post. Returns the key of one that is CREATED. What the indexes name is written before them.
function posts.log(id, tenant, state, at, detail)
  local key = call('HINCRBY', META, 'log', 1)
  local entry = state .. '\n' .. string.format('%.0f', at) .. '\n' .. detail
  call('HSET', log_of(id), 't', tenant, key, entry)
  call('ZADD', P .. 'lg:' .. tenant, key, key .. ':' .. id)
  if state == 'CREATED' then
    call('HSET', log_of(id), 'c', key)
    call('ZADD', P .. 'po:' .. tenant, key, id)
    call('ZREM', P .. 'pe', id)
    return key
  end
  if LAST_STATES[state] then
    call('ZREM', P .. 'po:' .. tenant, id)
    wire_runs.leave(id, tenant)
  end
  if LAST_STATES[state] or not posts.is_open(id, tenant) then call('ZADD', P .. 'pe', at, id) end
end

-- The answer about a post that is known by its id or by its deduplication key; nil about a new one.
function posts.known(wire)
  local id, dedup, link = wire[POST.id], or_nil(wire[POST.dedup]), or_nil(wire[POST.link])
  if call('EXISTS', log_of(id)) == 1 then return { id, false } end
  if link and wire_runs.has(wire[POST.tenant], link[LINK.run], id) then return { id, false } end
  local used = dedup and call('ZSCORE', P .. 'px', dedup)
  if used and tonumber(used) > now - DEDUP_WINDOW_MS then return { call('HGET', P .. 'pd', dedup), true } end
end

-- Publish a post. Returns the id of the post, and whether it is that of an earlier one with the same deduplication key.
-- The message comes first: a post that was stopped halfway is then not known, and is repeated.
local function publish(wire)
  local id, tenant = wire[POST.id], wire[POST.tenant]
  local dedup, queue, link = or_nil(wire[POST.dedup]), or_nil(wire[POST.queue]), or_nil(wire[POST.link])
  local answer = posts.known(wire) or link and wire_runs.answer(wire, link)
  if answer then return answer end
  if not queue then messages.publish(wire[POST.message]) end
  local key = posts.log(id, tenant, 'CREATED', now, wire[POST.description])
  if queue then queues.join(tenant, queue, id, key, wire[POST.message]) end
  if link then wire_runs.link(wire, link, key) end
  if dedup then
    call('HSET', P .. 'pd', dedup, id)
    call('ZADD', P .. 'px', now, dedup)
    posts.forget_dedup(EXPIRED)
  end
  return { id, false }
end

-- Publish posts, unless the run of one of them refuses it. The answer: of each the id, whether it is that of an earlier one,
-- and why all of them are refused, if so.
local function publish_all(list)
  local posted, refused, repeated, linked = {}, nil, {}, false
  for _, wire in ipairs(list) do linked = linked or or_nil(wire[POST.link]) end
  if linked then refused, repeated = wire_runs.refusal(list) end
  for place, wire in ipairs(list) do
    local id = wire[POST.id]
    posted[place] = refused and { id, false, refused } or repeated[id] and wire_runs.repeated(repeated[id]) or publish(wire)
  end
  return posted
end

-- Publish posts, each unless its run refuses it.
function posts.send(list)
  for _, wire in ipairs(list) do publish_all({ wire }) end
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

-- Cancel those of these posts of a tenant that are open; with `asked` the log says that somebody asked for it. Returns
-- their ids.
function posts.cancel(tenant, ids, asked)
  local found, seen, queued, waiting, leased = {}, {}, {}, {}, {}
  for _, id in ipairs(ids) do
    local message = not seen[id] and posts.is_open(id, tenant) and (messages.load(id) or queues.has_waiting(id) and {})
    if message then
      found[#found + 1], seen[id] = id, message
      local list = message.o and leased or message.d and waiting or queued
      if not message.c then list[#list + 1] = id end
    end
  end
  for _, list in ipairs(asked and { queued, waiting, leased } or {}) do
    for _, id in ipairs(list) do posts.log(id, tenant, 'CANCEL_REQUESTED', now, '{}') end
  end
  -- First, so that no place that is freed below goes to one of these.
  for _, id in ipairs(queued) do
    queues.drop_waiting(id)
    posts.end_cancelled(id)
  end
  for _, id in ipairs(waiting) do settling.finish(id, seen[id], { how = 'cancelled' }) end
  for _, id in ipairs(leased) do messages.cancel_leased(id, seen[id]) end
  return found
end

-- post: publishes posts. cancel_posts: cancels open posts of a tenant, and returns their ids. log: adds entries.
verbs.post = function(list) return publish_all(list) end

verbs.cancel_posts = function(tenant, ids) return posts.cancel(tenant, ids, true) end

verbs.log = function(list)
  for _, entry in ipairs(list) do posts.log(unpack(entry)) end
end

-- log_entries: entries of a tenant, or of one of its posts, the latest first. open_posts: CREATED entries of those that are
-- open. created_entries: those of these posts. latest_entries: the last one of each of these posts. The answer: [entries, are
-- there more], each entry as [key, post, tenant, state, time, detail]. Entries end with the one with which their details come
-- to LOG_SIZE.

-- The rows of entries, each given as { post, key }.
local function rows_of(tenant, entries)
  local rows, left = {}, LOG_SIZE
  for place, entry in ipairs(entries) do
    local id, key = unpack(entry)
    local state, at, detail = string.match(call('HGET', log_of(id), key), '^(.-)\n(.-)\n(.*)$')
    rows[place] = { tonumber(key), id, tenant, state, tonumber(at), detail }
    left = left - #detail
    if left <= 0 then break end
  end
  return { rows, #rows < #entries }
end

-- The entries of a post before a key, the latest first.
local function entries_of(id, tenant, before, limit)
  local keys, found = {}, {}
  if call('HGET', log_of(id), 't') == tenant then keys = keys_of(id) end
  table.sort(keys, function(one, other) return one > other end)
  for _, key in ipairs(keys) do
    if #found < limit and (not before or key < before) then found[#found + 1] = { id, key } end
  end
  return found
end

reads.log_entries = function(tenant, before, limit, id)
  before = or_nil(before)
  if or_nil(id) then return rows_of(tenant, entries_of(id, tenant, before, limit)) end
  local found, last = {}, before and '(' .. string.format('%.0f', before) or '+inf'
  for place, member in ipairs(call('ZREVRANGEBYSCORE', P .. 'lg:' .. tenant, last, '-inf', 'LIMIT', 0, limit)) do
    local key, of = string.match(member, '^(%d+):(.*)$')
    found[place] = { of, key }
  end
  return rows_of(tenant, found)
end

reads.open_posts = function(tenant, after, limit)
  local entries, first = {}, '(' .. string.format('%.0f', after)
  local found = call('ZRANGEBYSCORE', P .. 'po:' .. tenant, first, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
  for place = 1, #found, 2 do entries[#entries + 1] = { found[place], found[place + 1] } end
  return rows_of(tenant, entries)
end

reads.created_entries = function(tenant, ids)
  local found = {}
  for _, id in ipairs(ids) do
    local of, key = unpack(call('HMGET', log_of(id), 't', 'c'))
    if of == tenant and key then found[#found + 1] = { id, key } end
  end
  return rows_of(tenant, found)
end

reads.latest_entries = function(tenant, ids)
  local found = {}
  for _, id in ipairs(ids) do found[#found + 1] = entries_of(id, tenant, nil, 1)[1] end
  return rows_of(tenant, found)
end
