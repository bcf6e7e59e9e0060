-- Workflow runs of QStash, each named `<tenant>\n<run>`. `wr:<run>` is a run: u: its URL, c: its configuration, i: about
-- its invoker, t, za: begun and ended at, s: its state, v: its result, z: the size of its entries. `we:<run>` has the
-- entries, each as its post, its time, and its body after a letter (t: text, b: base64), a line each. `wm:<run>` has the
-- posts, each with the number of its last entry, the key of its CREATED entry (0: it was not published) and its time;
-- `wo:<run>` has those that are open, by that key. In the log of a post, r is its run, and w what it waits for, as
-- [event, head of its entry, due, about, size of the head]; `wv:<tenant>\n<event>` has the posts that wait for an event,
-- by that key. `wk:<run>` has kept events, each as `<length of its name>:<name><size> <tail>`. `wt:<tenant>` has runs by
-- begin, `wx` those that have ended, by end. In `wr:<run>`, k is the size of the kept events.
local STARTED, PAGE = 'RUN_STARTED', 100

local function name_of(tenant, name) return tenant .. '\n' .. name end

-- A run, whose state is false if it does not exist.
local function load_run(name)
  local state, begun, size = unpack(call('HMGET', P .. 'wr:' .. name, 's', 't', 'z'))
  return { state = state, begun = tonumber(begun or 0), size = tonumber(size or 0) }
end

-- Add entries to a run. Returns the number of the last one.
local function append(name, id, bodies, size)
  local lines, count = {}, 0
  for place, body in ipairs(bodies) do lines[place] = id .. '\n' .. NOW .. '\n' .. body end
  in_slices(lines, function(part) count = call('RPUSH', P .. 'we:' .. name, unpack(part)) end)
  call('HINCRBY', P .. 'wr:' .. name, 'z', size)
  return count
end

local function put_member(name, id, number, key, at)
  call('HSET', P .. 'wm:' .. name, id, string.format('%.0f %.0f %s', number, key, at))
end

-- The number of the last entry of a post, the key of its CREATED entry, and its time; nil if it is not of the run.
local function member(name, id)
  local text = call('HGET', P .. 'wm:' .. name, id)
  if not text then return nil end
  local number, key, at = string.match(text, '^(%d+) (%d+) (%d+)$')
  return tonumber(number), tonumber(key), at
end

-- The post with which a run began.
local function first_post(name) return string.match(call('LRANGE', P .. 'we:' .. name, 0, 0)[1], '^[^\n]*') end

-- Remove all that there is of a run.
local function remove(name)
  local tenant, run = string.match(name, '^(.-)\n(.*)$')
  call('DEL', P .. 'wr:' .. name, P .. 'we:' .. name, P .. 'wm:' .. name, P .. 'wo:' .. name, P .. 'wk:' .. name)
  call('ZREM', P .. 'wt:' .. tenant, run)
  call('ZREM', P .. 'wx', name)
end

-- What a post waits for; nil if it waits for no event.
local function load_wait(id)
  local tenant, run, text = unpack(call('HMGET', P .. 'pl:' .. id, 't', 'r', 'w'))
  if not text then return nil end
  local event, head, due, about, size = unpack(cjson.decode(text))
  return {
    id = id, tenant = tenant, run = run, name = name_of(tenant, run), event = event, head = head, due = due, about = about,
    size = size,
  }
end

local function drop_wait(wait)
  call('HDEL', P .. 'pl:' .. wait.id, 'w')
  call('ZREM', P .. 'wv:' .. name_of(wait.tenant, wait.event), wait.id)
end

-- Make a post that waits the next entry of its run, with this end of its text.
local function become_entry(wait, tail, size)
  drop_wait(wait)
  local _, key, at = member(wait.name, wait.id)
  local number = append(wait.name, wait.id, { 't' .. wait.head .. tail }, wait.size + size)
  put_member(wait.name, wait.id, number, key, at)
end

-- Deliver an event to a post that waits for it.
local function deliver(wait, tail, size)
  become_entry(wait, tail, size)
  local message = messages.load(wait.id)
  if message and not message.o and tonumber(message.u) > now then
    call('HSET', P .. 'm:' .. wait.id, 'u', 0)
    lanes.enqueue(wait.id, message, 0)
  end
end

-- The oldest event of this name that is kept for a run: as it is kept, the size and the text of its tail.
local function kept_event(name, event)
  local begins = #event .. ':' .. event
  for _, kept in ipairs(call('LRANGE', P .. 'wk:' .. name, 0, -1)) do
    if string.sub(kept, 1, #begins) == begins then
      local cut = string.find(kept, ' ', #begins + 1, true)
      return kept, tonumber(string.sub(kept, #begins + 1, cut - 1)), string.sub(kept, cut + 1)
    end
  end
end

-- Keep an event for a run, unless it has too many.
local function keep(name, event, tail, size)
  local kept = tonumber(call('HGET', P .. 'wr:' .. name, 'k') or 0)
  if call('LLEN', P .. 'wk:' .. name) < KEPT_EVENTS and kept + size <= MAX_ENTRIES_SIZE then
    call('RPUSH', P .. 'wk:' .. name, #event .. ':' .. event .. size .. ' ' .. tail)
    call('HINCRBY', P .. 'wr:' .. name, 'k', size)
  end
end

-- True if a post is one of a run, even if its log was removed or never there.
function wire_runs.has(tenant, run, id) return call('HEXISTS', P .. 'wm:' .. name_of(tenant, run), id) == 1 end

-- Why a link is refused, or nil; and whether its post is to be published, or else belongs to a begin that was deduplicated.
-- `run` is its run, as the links before it leave it.
local function refusal_of(run, name, link)
  local kind, begun, size = link[LINK.kind], or_nil(link[LINK.created_at]), link[LINK.size]
  if kind == 'BeginRun' then
    if run.state == STARTED then
      if or_nil(link[LINK.invoker]) then return 'live' end
      if not run.fresh then run.repeated = begun end
      return nil, false
    end
    run.state, run.begun, run.size, run.fresh = STARTED, begun, 0, true
  elseif run.repeated and (not begun or begun == run.repeated) then
    return nil, false, true
  elseif run.state ~= STARTED and not (run.state and link[LINK.late]) or begun and begun ~= run.begun then
    return 'ended'
  end
  if kind == 'AwaitEvent' then
    local kept, more = kept_event(name, link[LINK.event])
    if not kept then return nil, true end
    size = size + more
  elseif kind == 'AdoptRun' or kind == 'JoinRun' then
    return nil, true
  end
  run.size = run.size + size
  return run.size > MAX_ENTRIES_SIZE and not link[LINK.late] and 'full' or nil, run.state == STARTED
end

-- Why the new ones of some posts are refused, or nil; and by id the runs of those that belong to a begin that was
-- deduplicated. Nothing has been written by then.
function wire_runs.refusal(list)
  local runs, seen, keys, repeated = {}, {}, {}, {}
  for _, wire in ipairs(list) do
    local id, link, dedup = wire[POST.id], or_nil(wire[POST.link]), or_nil(wire[POST.dedup])
    if not (seen[id] or dedup and keys[dedup] or posts.known(wire)) then
      local name = link and name_of(wire[POST.tenant], link[LINK.run])
      if link and not runs[name] then runs[name] = load_run(name) end
      local why, published, again = nil, true, false
      if link then why, published, again = refusal_of(runs[name], name, link) end
      if why then return why end
      if again then repeated[id] = name end
      if published then
        seen[id] = true
        if dedup then keys[dedup] = true end
      end
    end
  end
  return nil, repeated
end

-- The answer about a post that belongs to a begin of this run that was deduplicated.
function wire_runs.repeated(name) return { first_post(name), true } end

-- The answer about a post that is not published: it begins a run that has begun, or is the late entry of one that has ended.
function wire_runs.answer(wire, link)
  local id, kind, name = wire[POST.id], link[LINK.kind], name_of(wire[POST.tenant], link[LINK.run])
  local begun = call('HGET', P .. 'wr:' .. name, 's') == STARTED
  if kind == 'BeginRun' and begun then
    return { first_post(name), true }
  elseif kind == 'AddEntry' and not begun then
    put_member(name, id, append(name, id, link[LINK.entries], link[LINK.size]), 0, NOW)
    return { id, false }
  end
end

-- What the links of posts that were published do. Returns the number of the last entry that the post delivers.
local act = {
  BeginRun = function(id, tenant, name, link)
    remove(name)
    local begun = string.format('%.0f', link[LINK.created_at])
    call('HSET', P .. 'wr:' .. name, 's', STARTED, 't', begun, 'u', link[LINK.url], 'c', link[LINK.config])
    if or_nil(link[LINK.invoker]) then call('HSET', P .. 'wr:' .. name, 'i', link[LINK.invoker]) end
    call('ZADD', P .. 'wt:' .. tenant, begun, link[LINK.run])
    return append(name, id, link[LINK.entries], link[LINK.size])
  end,
  AdoptRun = function(_, _, name, link)
    call('HSET', P .. 'wr:' .. name, 'c', link[LINK.config])
    return (member(name, first_post(name)))
  end,
  AddEntry = function(id, _, name, link) return append(name, id, link[LINK.entries], link[LINK.size]) end,
  JoinRun = function() return 0 end,
  AwaitEvent = function() return 0 end,
}

local function listen(id, tenant, name, link, key)
  local event = link[LINK.event]
  local about = { event, link[LINK.head], link[LINK.due], link[LINK.about], link[LINK.size] }
  call('HSET', P .. 'pl:' .. id, 'w', cjson.encode(about))
  call('ZADD', P .. 'wv:' .. name_of(tenant, event), key, id)
  local kept, size, tail = kept_event(name, event)
  if kept then
    call('LREM', P .. 'wk:' .. name, 1, kept)
    call('HINCRBY', P .. 'wr:' .. name, 'k', -size)
    deliver(load_wait(id), tail, size)
  end
end

-- Carry out the link of a post that was published; `key` is that of its CREATED entry.
function wire_runs.link(wire, link, key)
  local id, tenant, run = wire[POST.id], wire[POST.tenant], link[LINK.run]
  local name = name_of(tenant, run)
  put_member(name, id, act[link[LINK.kind]](id, tenant, name, link), key, NOW)
  call('HSET', P .. 'pl:' .. id, 'r', run)
  call('ZADD', P .. 'wo:' .. name, key, id)
  if link[LINK.kind] == 'AwaitEvent' then listen(id, tenant, name, link, key) end
end

-- A post has ended: it is not among the open ones of its run any more, and waits for nothing.
function wire_runs.leave(id, tenant)
  local run = call('HGET', P .. 'pl:' .. id, 'r')
  if not run then return end
  call('ZREM', P .. 'wo:' .. name_of(tenant, run), id)
  local wait = load_wait(id)
  if wait then drop_wait(wait) end
end

-- End a run, and publish these posts, each unless its run refuses it. False if it has ended, or began at another time.
function wire_runs.finish(tenant, id, how, result, list, begun)
  local name = name_of(tenant, id)
  local run = load_run(name)
  if run.state ~= STARTED or or_nil(begun) and begun ~= run.begun then return false end
  call('DEL', P .. 'wk:' .. name)
  local open = call('ZRANGE', P .. 'wo:' .. name, 0, -1)
  for _, post in ipairs(open) do
    local wait = load_wait(post)
    if wait then drop_wait(wait) end
  end
  call('HSET', P .. 'wr:' .. name, 's', how, 'za', NOW)
  if or_nil(result) then call('HSET', P .. 'wr:' .. name, 'v', result) end
  call('ZADD', P .. 'wx', now, name)
  posts.cancel(tenant, open)
  posts.send(list)
  return true
end

-- Remove runs that ended before this. Returns how many entries they had, and 1 for each.
function wire_runs.prune(before, limit)
  local count = 0
  for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'wx', '-inf', '(' .. string.format('%.0f', before), 'LIMIT', 0, limit)) do
    count = count + call('LLEN', P .. 'we:' .. name) + 1
    remove(name)
    if count >= limit then break end
  end
  return count
end

-- The entries of a run from the place `first` on, up to `last`: rows of post, text of the body, whether it is base64, and time.
-- They end with the one with which their bodies come to LOG_SIZE.
local function entries_of(name, first, last)
  local rows, left = {}, LOG_SIZE
  for place = first, last - 1, PAGE do
    for _, line in ipairs(call('LRANGE', P .. 'we:' .. name, place, math.min(place + PAGE, last) - 1)) do
      local cut = string.find(line, '\n', 1, true)
      local body = string.find(line, '\n', cut + 1, true) + 1
      local base64, at = string.sub(line, body, body) == 'b', tonumber(string.sub(line, cut + 1, body - 2))
      rows[#rows + 1] = { string.sub(line, 1, cut - 1), string.sub(line, body + 1), base64, at }
      left = left - (#line - body)
      if left <= 0 then return rows end
    end
  end
  return rows
end

-- claim_entry: makes a post that still waits an entry; entries from the place `first` on, and the number of the last one that
-- the post delivers; null if the run has ended. notify_event: delivers an event, and returns the waits that it ended, each as
-- [run, post, due, about, when the run began]. end_run: see `finish`.
verbs.claim_entry = function(tenant, run, id, first)
  local name = name_of(tenant, run)
  local wait = load_wait(id)
  if load_run(name).state ~= STARTED or not member(name, id) then return nil end
  if wait then become_entry(wait, WAIT_TIMEOUT, #WAIT_TIMEOUT) end
  local last = member(name, id)
  return { entries_of(name, first, last), last }
end

local function wait_row(wait, run) return { wait.run, wait.id, wait.due, wait.about, run.begun } end

verbs.notify_event = function(tenant, event, tail, size, run)
  local name = or_nil(run) and name_of(tenant, run)
  local rows, waits = {}, false
  local found = call('ZRANGE', name and P .. 'wo:' .. name or P .. 'wv:' .. name_of(tenant, event), 0, -1)
  for _, id in ipairs(found) do
    local wait = load_wait(id)
    if wait and wait.event == event then
      local about = load_run(wait.name)
      waits = true
      if about.size + wait.size + size <= MAX_ENTRIES_SIZE then
        deliver(wait, tail, size)
        rows[#rows + 1] = wait_row(wait, about)
      end
      if name then break end
    end
  end
  if name and not waits and load_run(name).state == STARTED then keep(name, event, tail, size) end
  return rows
end

verbs.end_run = function(...) return wire_runs.finish(...) end

-- event_waits: the posts that wait for an event, longest first. wire_run: a run or null. wire_runs: those of a tenant, the
-- latest first: [rows, where to continue or null]. run_entries: [rows, are there more]. run_members: [post, number of its
-- last entry, time] of each post, in their order.
reads.event_waits = function(tenant, event)
  local rows = {}
  for place, id in ipairs(call('ZRANGE', P .. 'wv:' .. name_of(tenant, event), 0, -1)) do
    local wait = load_wait(id)
    rows[place] = wait_row(wait, load_run(wait.name))
  end
  return rows
end

-- The columns of a run, and the length of its texts.
local function row(tenant, id)
  local url, state, config, invoker, begun, ended, result, size =
    unpack(call('HMGET', P .. 'wr:' .. name_of(tenant, id), 'u', 's', 'c', 'i', 't', 'za', 'v', 'z'))
  if not url then return nil end
  local columns = {
    id, tenant, url, state, config, or_null(invoker), tonumber(begun), or_null(tonumber(ended)), or_null(result),
    tonumber(size),
  }
  return columns, #config + #(invoker or '') + #(result or '')
end

reads.wire_run = function(tenant, id) return row(tenant, id) or NULL end

reads.wire_runs = function(tenant, before_at, before_id, limit)
  local rows, left = {}, LOG_SIZE
  if limit < 1 then return { rows, NULL } end
  local more = messages.each_before(P .. 'wt:' .. tenant, before_at, before_id, function(id)
    local columns, length = row(tenant, id)
    rows[#rows + 1], left = columns, left - length
    return #rows == limit or left <= 0
  end)
  return { rows, #rows < limit and more or NULL }
end

reads.run_entries = function(tenant, run, first)
  local name = name_of(tenant, run)
  local last = call('LLEN', P .. 'we:' .. name)
  local rows = entries_of(name, first, last)
  return { rows, first + #rows < last }
end

reads.run_members = function(tenant, run)
  local name, found, rows = name_of(tenant, run), {}, {}
  for _, id in ipairs(call('HKEYS', P .. 'wm:' .. name)) do
    local number, key, at = member(name, id)
    if key > 0 then found[#found + 1] = { key, { id, number, tonumber(at) } } end
  end
  table.sort(found, function(one, other) return one[1] < other[1] end)
  for place, one in ipairs(found) do rows[place] = one[2] end
  return rows
end
