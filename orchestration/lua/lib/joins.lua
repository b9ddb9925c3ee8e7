-- Joins of several event parameters: per step and scope path one FIFO per event type; a full set makes one work item.
-- Fields of K.joins, with b = step|scope: <b>|<type>:h and :t consumed and last index, <b>|<type>:<i> entry, <b># sets.

local function join_push(b, type, entry)
  local f = b .. '|' .. type
  local t = redis.call('HINCRBY', K.joins, f .. ':t', 1)
  redis.call('HSET', K.joins, f .. ':' .. t, entry)
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
  join_push(b, c.ty, cmsgpack.pack({ e = c.e, rc = c.rc }))
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
