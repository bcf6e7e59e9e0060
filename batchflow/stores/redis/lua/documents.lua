-- Documents: `dc:<kind>` has those of a kind as [text, version, made at, changed at] by name, and `dn:<kind>` the names in
-- their order.
local function load_document(kind, name)
  local text = call('HGET', P .. 'dc:' .. kind, name)
  return text and cjson.decode(text)
end

local function row(name, about) return { name, unpack(about) } end

-- put_document: adds a document or replaces its text, and returns it; null if it has not the expected version.
-- drop_document: removes one; false if it does not exist.
verbs.put_document = function(kind, name, text, expected)
  local known = load_document(kind, name)
  local version = known and known[2] or 0
  if or_nil(expected) and expected ~= version then return nil end
  local about = { text, version + 1, known and known[3] or now, now }
  call('HSET', P .. 'dc:' .. kind, name, cjson.encode(about))
  call('ZADD', P .. 'dn:' .. kind, 0, name)
  return row(name, about)
end

verbs.drop_document = function(kind, name)
  call('ZREM', P .. 'dn:' .. kind, name)
  return call('HDEL', P .. 'dc:' .. kind, name) == 1
end

-- document: a document or null. documents: those whose names begin with `prefix` and are after `after`, by name.
reads.document = function(kind, name)
  local about = load_document(kind, name)
  return about and row(name, about) or NULL
end

reads.documents = function(kind, prefix, after, limit)
  local rows = {}
  local first = after >= prefix and after ~= '' and '(' .. after or '[' .. prefix
  -- No name has this byte: they are UTF-8.
  local last = '(' .. prefix .. '\255'
  for place, name in ipairs(call('ZRANGE', P .. 'dn:' .. kind, first, last, 'BYLEX', 'LIMIT', 0, limit)) do
    rows[place] = row(name, load_document(kind, name))
  end
  return rows
end
