-- Joins of several event parameters: a complete set makes one work item.
--!keys joins outbox

-- A set may have a time limit: the outbox then has `join|run|buffer` at the instant when the set expires.
local function set_limit(b, within, size_of)
  local member = 'join|' .. call.run .. '|' .. b
  if size_of then redis.call('ZREM', K.outbox, member) end    -- a set is complete: events left begin another one
  if size_of and size_of() == 0 then return end
  redis.call('ZADD', K.outbox, 'NX', whole(call.now + within), member)
end

-- c: s step, ty slot type filled, slots types in parameter order, e event id, rc recoveries, ky key that the events of
-- a set share, wi its time limit in ms, and the record's fields.
function joins.add(c)
  local b = c.s .. '|' .. c.sc .. (c.ky or '')
  join_buffers.push(c.sc, b, c.ty, cmsgpack.pack({ e = c.e, rc = c.rc, en = c.en, by = call.source }))
  local needed = {}
  for _, type in ipairs(c.slots) do needed[type] = (needed[type] or 0) + 1 end
  for type, n in pairs(needed) do
    if join_buffers.size(b, type) < n then
      if c.wi then set_limit(b, c.wi) end
      return
    end
  end
  local ids, recoveries, members = {}, {}, {}
  for i, type in ipairs(c.slots) do
    local member = join_buffers.pop(b, type)
    ids[i], recoveries[i], members[i] = member.e, member.rc, member
  end
  -- Keys come and go: sets that share a key are not counted, but named after their first event.
  local wid = c.w .. '.' .. (c.ky and ids[1] or redis.call('HINCRBY', K.joins, b .. '#', 1))
  if c.wi then
    set_limit(b, c.wi, function()
      local left = 0
      for type in pairs(needed) do left = left + join_buffers.size(b, type) end
      return left
    end)
  end
  for _, member in ipairs(members) do
    -- earlier releases did not record where it came from
    if member.by then journal.lead_to(wid, c.s, member.en, member.by) end
  end
  local record = { version = records.VERSION, work_id = wid, step = c.s, num_workers = c.nw, queue = c.q,
    priority = c.p, time_limit = c.to, event_ids = ids, event_name = c.en, scope = c.sc, recoveries = c.rc,
    recoveries_each = recoveries }
  scopes.deliver(record)
end
