-- publish: adds those messages that are new, to wait until they are due; of each, whether it was. Safe to repeat.
verbs.publish = function(list)
  local new = {}
  for place, message in ipairs(list) do new[place] = messages.publish(message) end
  return new
end
