-- What is written together with a step or with the end of a claim: first what marks, then messages, then items.
local apply = {
  enter = function(_, batch, total, left_out) batches.enter(batch, total, left_out) end,
  page = function(_, id, ...)
    local batch = batches.get(id)
    if not batch then return end
    batches.add(batch, 'pg', 1)
    for place, field in ipairs({ 'el', 'ap', 'du', 'lo', 'ch' }) do batches.add(batch, field, (select(place, ...))) end
  end,
  walked = function(_, batch, total) batches.walked(batch, total) end,
  open = function(_, batch, first) verbs.open_batch(batch, first) end,
  listen = waiting.listen,
  unlisten = function(run, numbers)
    for _, number in ipairs(numbers) do waiting.unlisten(run, number) end
  end,
  accept = waiting.accept,
  notify = function(_, event, data, run) waiting.notify(event, data, opt(run)) end,
}
local later = {
  publish = function(_, list)
    for _, message in ipairs(list) do messages.publish(message) end
  end,
}
local last = { start = function(_, ...) batches.start_items(...) end }

-- `list`: [kind, argument, …] of each.
function effects.apply(run, list)
  for _, stage in ipairs({ apply, later, last }) do
    for _, effect in ipairs(list) do
      local act = stage[effect[1]]
      if act then act(run, unpack(effect, 2)) end
    end
  end
end
