-- Joins of several event parameters: a full set makes one work item.
--!keys joins
--!include record journal join_buffers scopes

-- c: s step, ty slot type filled, slots types in parameter order, e event id, rc recoveries, and the record's fields.
local function join(c)
  local b = c.s .. '|' .. c.sc
  join_push(c.sc, b, c.ty, cmsgpack.pack({ e = c.e, rc = c.rc, en = c.en, by = source }))
  local needed = {}
  for _, type in ipairs(c.slots) do needed[type] = (needed[type] or 0) + 1 end
  for type, n in pairs(needed) do
    if join_size(b, type) < n then return end
  end
  local events, recoveries, members = {}, {}, {}
  for i, type in ipairs(c.slots) do
    local member = join_pop(b, type)
    events[i], recoveries[i], members[i] = member.e, member.rc, member
  end
  local set = redis.call('HINCRBY', K.joins, b .. '#', 1)
  local wid = c.w .. '.' .. set
  for _, member in ipairs(members) do
    if member.by then lead_to(wid, c.s, member.en, member.by) end   -- earlier releases did not note where it came from
  end
  local record = { version = RECORD_VERSION, work_id = wid, step = c.s, num_workers = c.nw, queue = c.q,
    priority = c.p, time_limit = c.to, event_ids = events, event_name = c.en, scope = c.sc, recoveries = c.rc,
    recoveries_each = recoveries }
  deliver(record)
end
