-- run: a run as it stands, with its journal. runs: those that are kept, the latest first, as far as a bounded look goes:
-- [rows, where to go on or null]. dead_letters: the latest, newest first.
-- [id, destination, state, made, started, ended, payload, result, error, failures, batch, label, parent, journal]
local LOOK = 2000

local function run_row(id, found, with_journal)
  messages.complete(id, found)
  local shown = found.z == 'dead' and RUN_STATE.dead or found.z or (found.o and 'running' or 'waiting')
  return {
    id, found.d, shown, tonumber(found.t), out(tonumber(found.st)), out(tonumber(found.za)), found.y or 'null',
    out(found.v), out(found.e), tonumber(found.x or 0), out(found.b), out(found.L), out(found.p),
    with_journal and steps.text(steps.of(found)) or NULL,
  }
end

-- An item that nobody has claimed yet has no hash of its own.
local function fresh_item(id)
  local name, digits = string.match(id, '^(.*)%.r(%d%d%d%d%d%d%d%d%d)$')
  local batch = name and batches.get(name)
  local number = tonumber(digits)
  local value = batch and call('HGET', batches.bucket(name, number), number)
  if not value or string.sub(value, 1, 1) ~= 'o' then return nil end
  return { d = batch.d, t = batch.st or batch.t, b = name }
end

reads.run = function(id)
  local found = record_of(call('HGETALL', P .. 'm:' .. id))
  if not found.d and not found.i then found = fresh_item(id) end
  return found and run_row(id, found, true) or NULL
end

local function fits(row, shown, destination, label)
  return (not shown or row[3] == shown) and (not destination or row[2] == destination) and (not label or row[12] == label)
end

reads.runs = function(shown, destination, label, before_at, before_id, limit)
  shown, destination, label = opt(shown), opt(destination), opt(label)
  local rows, offset, at, last = {}, 0, string.format('%.0f', before_at), nil
  while #rows < limit and offset < LOOK do
    local found = call('ZREVRANGEBYSCORE', P .. 'runs', at, '-inf', 'WITHSCORES', 'LIMIT', offset, 200)
    if #found == 0 then return { rows, NULL } end
    offset = offset + #found / 2
    for place = 1, #found, 2 do
      local id, made = found[place], tonumber(found[place + 1])
      if made < before_at or id < before_id then
        local row = run_row(id, record_of(call('HGETALL', P .. 'm:' .. id)), false)
        if fits(row, shown, destination, label) then rows[#rows + 1] = row end
        last = { made, id }
        if #rows == limit then break end
      end
    end
  end
  return { rows, last and #rows < limit and last or NULL }
end

reads.dead_letters = function(batch, limit)
  local rows = {}
  if limit < 1 then return rows end
  for place, id in ipairs(call('ZREVRANGE', opt(batch) and P .. 'bd:' .. batch or P .. 'dead', 0, limit - 1)) do
    local found = record_of(call('HGETALL', P .. 'm:' .. id))
    local flow = flows.get(found.k) or flows.unlimited(found.k)
    local number, batch = tonumber(found.n or -1), found.b and batches.get(found.b)
    local of = found.of
    if number >= 0 then of = batch and batch.of end
    rows[place] = {
      id, found.d, found.k, flow.p > 0 and flow.p or NULL, flow.r > 0 and flow.r or NULL, flow.per, flow.bu,
      found.y or 'null', out(found.h), out(found.r), out(found.b), found.kp ~= nil, out(found.L), out(found.p),
      out(tonumber(found.ps)), tonumber(found.dp or 0), out(of), out(found.od), found.e or '', tonumber(found.x or 0),
      tonumber(found.l or 0), tonumber(found.t), out(tonumber(found.st)), tonumber(found.za), out(found.i), number,
      steps.text(steps.of(found)),
    }
  end
  return rows
end
