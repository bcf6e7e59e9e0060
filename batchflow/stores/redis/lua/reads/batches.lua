-- batch: one as it stands. batches: the latest, newest first. items: those above `after` by number, as far as a bounded
-- look goes: [rows, the number to go on after or null].
local LOOK = 6400

local function batch_row(batch)
  return {
    batch.id, batch.w, batch.s, batch.pg, batch.ch, out(batch.to), batch.wk, string.format('%.17g', batch.wm),
    call('GET', P .. 'p:' .. batch.id) or 'null', batch.fo == 1, out(batch.L),
    out(batch.hd), batch.pz == 1, out(batch.e), batch.t, out(batch.st),
    out(batch.za), batch.el, batch.op, batch.su, batch.fa, batch.ca, batch.ap, batch.fl, batch.du, batch.lo,
  }
end

reads.batch = function(id)
  local batch = batches.get(id)
  return batch and batch_row(batch) or NULL
end

reads.batches = function(workflow, label, open_only, limit)
  workflow, label = opt(workflow), opt(label)
  local key = P .. (label and 'bl:' .. label or workflow and 'bw:' .. workflow or open_only and 'bo' or 'bs')
  local rows, offset = {}, 0
  while #rows < limit do
    local ids = call('ZREVRANGE', key, offset, offset + limit - 1)
    if #ids == 0 then break end
    offset = offset + #ids
    for _, id in ipairs(ids) do
      local batch = batches.get(id)
      local fits = batch and not (open_only and batch.za) and (not workflow or batch.w == workflow)
      if fits and #rows < limit then rows[#rows + 1] = batch_row(batch) end
    end
  end
  return rows
end

local function item_row(id, number, value)
  local how = string.sub(value, 1, 1)
  local row = { number, string.sub(value, 2), SHOWN[how], NULL, NULL, NULL }
  local ended = how ~= 'o' and call('HGET', batches.ends(id, number), number)
  if ended then
    local about = cjson.decode(ended)
    row[4], row[5], row[6] = about[2], about[3], about[1]
  end
  return row
end

reads.items = function(id, shown, after, limit)
  shown = opt(shown)
  local batch, rows, number = batches.get(id), {}, after + 1
  if not batch then return { rows, NULL } end
  local stop = number + LOOK
  while number < batch.hi and number < stop and #rows < limit do
    local found = record_of(call('HGETALL', batches.bucket(id, number)))
    repeat
      local value = found[tostring(number)]
      if value and (not shown or SHOWN[string.sub(value, 1, 1)] == shown) and #rows < limit then
        rows[#rows + 1] = item_row(id, number, value)
      end
      number = number + 1
    until number % BUCKET == 0 or #rows == limit
  end
  return { rows, #rows < limit and number < batch.hi and number - 1 or NULL }
end
