-- Joins of several event parameters: per step and scope path one FIFO per event type; a full set makes one work item.
-- Fields of K.joins, with b = step|scope: <b>|<type>:h and :t consumed and last index, <b>|<type>:<i> entry, <b># sets.

local function join_push(path, b, type, entry)
  local f = b .. '|' .. type
  local t = redis.call('HINCRBY', K.joins, f .. ':t', 1)
  redis.call('HSET', K.joins, f .. ':' .. t, entry)
  local id = innermost(path)
  if t > 1 or not id then return end
  local raw = redis.call('HGET', K.scopes, id .. ':j')
  local known = raw and cmsgpack.unpack(raw) or {}
  if known[f] then return end
  known[f] = b
  redis.call('HSET', K.scopes, id .. ':j', cmsgpack.pack(known))
end

-- A fan-out that closes takes along what its joins have not used: nobody can complete those sets any more.
function forget_joins(id)
  local raw = redis.call('HGET', K.scopes, id .. ':j')
  if not raw then return end
  redis.call('HDEL', K.scopes, id .. ':j')
  for f, b in pairs(cmsgpack.unpack(raw)) do
    local h = tonumber(redis.call('HGET', K.joins, f .. ':h') or 0)
    for i = h + 1, tonumber(redis.call('HGET', K.joins, f .. ':t') or 0) do
      drop_event(cmsgpack.unpack(redis.call('HGET', K.joins, f .. ':' .. i)).e)
      redis.call('HDEL', K.joins, f .. ':' .. i)
    end
    redis.call('HDEL', K.joins, f .. ':h', f .. ':t', b .. '#')
  end
end

local function join_size(b, type)
  local f = b .. '|' .. type
  return tonumber(redis.call('HGET', K.joins, f .. ':t') or 0) - tonumber(redis.call('HGET', K.joins, f .. ':h') or 0)
end

local function join_pop(b, type)
  local f = b .. '|' .. type
  local h = redis.call('HINCRBY', K.joins, f .. ':h', 1)
  local entry = redis.call('HGET', K.joins, f .. ':' .. h)
  redis.call('HDEL', K.joins, f .. ':' .. h)
  if tonumber(redis.call('HGET', K.joins, f .. ':t')) == h then redis.call('HDEL', K.joins, f .. ':h', f .. ':t') end
  return cmsgpack.unpack(entry)
end

-- c: s step, ty slot type filled, slots types in parameter order, e event id, rc recoveries, and the record's fields.
local function join(c)
  local b = c.s .. '|' .. c.sc
  join_push(c.sc, b, c.ty, cmsgpack.pack({ e = c.e, rc = c.rc }))
  local needed = {}
  for _, type in ipairs(c.slots) do needed[type] = (needed[type] or 0) + 1 end
  for type, n in pairs(needed) do
    if join_size(b, type) < n then return end
  end
  local events, recoveries = {}, {}
  for i, type in ipairs(c.slots) do
    local member = join_pop(b, type)
    events[i], recoveries[i] = member.e, member.rc
  end
  local set = redis.call('HINCRBY', K.joins, b .. '#', 1)
  deliver({ id = c.w .. '.' .. set, s = c.s, nw = c.nw, q = c.q, p = c.p, to = c.to, en = c.en, ev = events, rcs = recoveries,
            rc = c.rc, sc = c.sc })
end
