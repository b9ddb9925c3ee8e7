-- Joins of several event parameters: a full set makes one work item.
--!keys joins

-- c: s step, ty slot type filled, slots types in parameter order, e event id, rc recoveries, and the record's fields.
function joins.add(c)
  local b = c.s .. '|' .. c.sc
  join_buffers.push(c.sc, b, c.ty, cmsgpack.pack({ e = c.e, rc = c.rc, en = c.en, by = call.source }))
  local needed = {}
  for _, type in ipairs(c.slots) do needed[type] = (needed[type] or 0) + 1 end
  for type, n in pairs(needed) do
    if join_buffers.size(b, type) < n then return end
  end
  local ids, recoveries, members = {}, {}, {}
  for i, type in ipairs(c.slots) do
    local member = join_buffers.pop(b, type)
    ids[i], recoveries[i], members[i] = member.e, member.rc, member
  end
  local set = redis.call('HINCRBY', K.joins, b .. '#', 1)
  local wid = c.w .. '.' .. set
  for _, member in ipairs(members) do
    -- earlier releases did not note where it came from
    if member.by then journal.lead_to(wid, c.s, member.en, member.by) end
  end
  local record = { version = records.VERSION, work_id = wid, step = c.s, num_workers = c.nw, queue = c.q,
    priority = c.p, time_limit = c.to, event_ids = ids, event_name = c.en, scope = c.sc, recoveries = c.rc,
    recoveries_each = recoveries }
  scopes.deliver(record)
end
