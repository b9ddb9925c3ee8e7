-- Buffers of joins of several event parameters: per step and scope path one FIFO per event type.
-- Fields of K.joins, with b = step|scope: <b>|<type>:h and :t consumed and last index, <b>|<type>:<i> entry, <b># how
-- many sets have become complete.
--!keys scopes joins

function join_buffers.push(path, b, type, entry)
  local f = b .. '|' .. type
  local t = redis.call('HINCRBY', K.joins, f .. ':t', 1)
  redis.call('HSET', K.joins, f .. ':' .. t, entry)
  local id = scopes.innermost(path)
  if t > 1 or not id then return end
  local raw = redis.call('HGET', K.scopes, id .. ':j')
  local known = raw and cmsgpack.unpack(raw) or {}
  if known[f] then return end
  known[f] = b
  redis.call('HSET', K.scopes, id .. ':j', cmsgpack.pack(known))
end

function join_buffers.size(b, type)
  local f = b .. '|' .. type
  return tonumber(redis.call('HGET', K.joins, f .. ':t') or 0) - tonumber(redis.call('HGET', K.joins, f .. ':h') or 0)
end

function join_buffers.pop(b, type)
  local f = b .. '|' .. type
  local h = redis.call('HINCRBY', K.joins, f .. ':h', 1)
  local entry = redis.call('HGET', K.joins, f .. ':' .. h)
  redis.call('HDEL', K.joins, f .. ':' .. h)
  if tonumber(redis.call('HGET', K.joins, f .. ':t')) == h then redis.call('HDEL', K.joins, f .. ':h', f .. ':t') end
  return cmsgpack.unpack(entry)
end

-- A fan-out that closes drops the events that its joins have not used: those sets can no longer become complete.
function join_buffers.forget(id)
  local raw = redis.call('HGET', K.scopes, id .. ':j')
  if not raw then return end
  redis.call('HDEL', K.scopes, id .. ':j')
  for f, b in pairs(cmsgpack.unpack(raw)) do
    local h = tonumber(redis.call('HGET', K.joins, f .. ':h') or 0)
    for i = h + 1, tonumber(redis.call('HGET', K.joins, f .. ':t') or 0) do
      events.drop(cmsgpack.unpack(redis.call('HGET', K.joins, f .. ':' .. i)).e)
      redis.call('HDEL', K.joins, f .. ':' .. i)
    end
    redis.call('HDEL', K.joins, f .. ':h', f .. ':t', b .. '#')
  end
end
