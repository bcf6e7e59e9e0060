-- Queues of posts, one hash for each tenant: a queue is [parallelism, paused, made at, changed at]. `qw:<tenant>\n<queue>` has
-- the posts that wait for a place, by the keys of their CREATED entries, `qp:<tenant>\n<queue>` those that have one. A post
-- that waits has no message: the one to publish is in its log.
local PARALLELISM, PAUSED, CHANGED = 1, 2, 4

local function name_of(tenant, queue) return tenant .. '\n' .. queue end

local function load_queue(tenant, queue)
  local text = call('HGET', P .. 'qs:' .. tenant, queue)
  return text and cjson.decode(text)
end

local function save(tenant, queue, about)
  call('HSET', P .. 'qs:' .. tenant, queue, cjson.encode(about))
end

-- Give free places to the posts that have waited longest.
local function fill(tenant, queue)
  local about, name = load_queue(tenant, queue), name_of(tenant, queue)
  if not about or about[PAUSED] then return end
  local free = about[PARALLELISM] - call('ZCARD', P .. 'qp:' .. name)
  if free < 1 then return end
  for _, id in ipairs(call('ZRANGE', P .. 'qw:' .. name, 0, free - 1)) do
    local key = P .. 'pl:' .. id
    messages.publish(cjson.decode(call('HGET', key, 'm')))
    call('ZADD', P .. 'qp:' .. name, now, id)
    call('ZREM', P .. 'qw:' .. name, id)
    call('HDEL', key, 'm')
  end
end

-- Have a post wait in a queue, which is made if it does not exist. `text`: its message, to be published once it has a place.
function queues.join(tenant, queue, id, key, text)
  if not load_queue(tenant, queue) then save(tenant, queue, { 1, false, now, now }) end
  call('HSET', P .. 'pl:' .. id, 'q', queue, 'm', text)
  call('ZADD', P .. 'qw:' .. name_of(tenant, queue), key, id)
  fill(tenant, queue)
end

-- Pass the place of a post to its heir, or to the post that has waited longest.
function queues.leave(id, heir)
  local key = P .. 'pl:' .. id
  local tenant, queue, waits = unpack(call('HMGET', key, 't', 'q', 'm'))
  if not queue or waits then return end
  call('HDEL', key, 'q')
  call('ZREM', P .. 'qp:' .. name_of(tenant, queue), id)
  if heir and posts.is_open(heir, tenant) then
    call('HSET', P .. 'pl:' .. heir, 'q', queue)
    call('ZADD', P .. 'qp:' .. name_of(tenant, queue), now, heir)
  else
    fill(tenant, queue)
  end
end

-- True if a post waits for a place.
function queues.has_waiting(id) return call('HEXISTS', P .. 'pl:' .. id, 'm') == 1 end

-- Remove a post that waits from its queue.
function queues.drop_waiting(id)
  local tenant, queue = unpack(call('HMGET', P .. 'pl:' .. id, 't', 'q'))
  call('ZREM', P .. 'qw:' .. name_of(tenant, queue), id)
  call('HDEL', P .. 'pl:' .. id, 'q', 'm')
end

-- put_queue: makes a queue or changes what is given of it. drop_queue: removes one and cancels the posts that wait in it, a
-- slice at a time: null as long as there are more; false if it does not exist. queue, queues: one queue or null, those of a tenant by name. A queue is [name, parallelism,
-- paused, made at, changed at, posts that wait or have a place].
local function row(tenant, queue, about)
  local name = name_of(tenant, queue)
  local lag = call('ZCARD', P .. 'qw:' .. name) + call('ZCARD', P .. 'qp:' .. name)
  return { queue, about[1], about[2], about[3], about[4], lag }
end

verbs.put_queue = function(tenant, queue, parallelism, paused)
  local about = load_queue(tenant, queue) or { 1, false, now, now }
  parallelism, paused = or_nil(parallelism), or_nil(paused)
  if parallelism then about[PARALLELISM] = parallelism end
  if paused ~= nil then about[PAUSED] = paused end
  about[CHANGED] = now
  save(tenant, queue, about)
  fill(tenant, queue)
  return row(tenant, queue, about)
end

verbs.drop_queue = function(tenant, queue)
  if not load_queue(tenant, queue) then return false end
  local name = name_of(tenant, queue)
  local waiting = call('ZRANGE', P .. 'qw:' .. name, 0, SWEEP_LIMIT - 1)
  for _, id in ipairs(waiting) do
    queues.drop_waiting(id)
    posts.end_cancelled(id)
  end
  if #waiting == SWEEP_LIMIT then return nil end
  for _, id in ipairs(call('ZRANGE', P .. 'qp:' .. name, 0, -1)) do call('HDEL', P .. 'pl:' .. id, 'q') end
  call('DEL', P .. 'qp:' .. name)
  call('HDEL', P .. 'qs:' .. tenant, queue)
  return true
end

reads.queue = function(tenant, queue)
  local about = load_queue(tenant, queue)
  return about and row(tenant, queue, about) or NULL
end

reads.queues = function(tenant)
  local rows = {}
  for queue, text in pairs(to_table(call('HGETALL', P .. 'qs:' .. tenant))) do
    rows[#rows + 1] = row(tenant, queue, cjson.decode(text))
  end
  table.sort(rows, function(one, other) return one[1] < other[1] end)
  return rows
end
