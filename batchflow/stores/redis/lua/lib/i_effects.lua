-- What is written together with a step or with the end of a claim: first what marks, then messages, then items.
local apply = {
  enter = function(_, effect) batches.enter(effect[2], effect[3], effect[4]) end,
  page = function(_, effect)
    local batch = batches.get(effect[2])
    if not batch then return end
    batches.add(batch, 'pg', 1)
    for place, field in ipairs({ 'el', 'ap', 'du', 'lo', 'ch' }) do batches.add(batch, field, effect[place + 2]) end
  end,
  walked = function(_, effect) batches.walked(effect[2], effect[3]) end,
  open = function(_, effect) verbs.open_batch(effect[2], effect[3]) end,
  listen = function(run, effect) waiting.listen(run, effect[2], effect[3], effect[4]) end,
  unlisten = function(run, effect)
    for _, number in ipairs(effect[2]) do waiting.unlisten(run, number) end
  end,
  accept = function(run, effect) waiting.accept(run, effect[2]) end,
  notify = function(_, effect) waiting.notify(effect[2], effect[3], opt(effect[4])) end,
}
local later = {
  publish = function(effect)
    for _, message in ipairs(effect[2]) do messages.publish(message) end
  end,
}
local last = {
  start = function(effect) batches.start_items(effect[2], effect[3], effect[4], effect[5], effect[6], effect[7]) end,
}

function effects.apply(run, list)
  for _, effect in ipairs(list) do
    if apply[effect[1]] then apply[effect[1]](run, effect) end
  end
  for _, effect in ipairs(list) do
    if later[effect[1]] then later[effect[1]](effect) end
  end
  for _, effect in ipairs(list) do
    if last[effect[1]] then last[effect[1]](effect) end
  end
end
