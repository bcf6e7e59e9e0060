-- publish: adds those messages that are new, to wait until they are due; of each, whether it was. redrive: lets a dead
-- letter wait again; whether it does. Safe to repeat.
verbs.publish = function(list)
  local new = {}
  for place, message in ipairs(list) do new[place] = messages.publish(message) end
  return new
end

verbs.redrive = function(id) return messages.redrive(id) end
