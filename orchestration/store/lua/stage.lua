-- Write a chunk of a large fan-out to Redis before the commit; chunks keep each script short.
-- Staged work is invisible: no slot, no count, no join sees it until the commit under the same token splices it in.
-- Args: run, w, t token, size (entries in all), items {{i, e, d, uses, rec, more}} or {{at, d}}, seg.
--   seg is either a segment of work, named after the token so that attempts never mix: item i becomes its entry i. A
--   record may have several events, more {id = d}; e is one of them.
--   Or it is the logical name of a member list, and the item becomes its entry at `at`.
-- Answers: staged | resized (size) | stale | closed. Repeating a chunk writes the same again; `at` guards the member
-- lists. `resized`: this attempt staged another number of entries here; clear them first.
--!keys run events queue extra

local status = redis.call('HGET', K.run, 'status')
if status ~= 'running' then return { status and 'closed' or 'unknown' } end
local record = records.get(A.w)
if not record or record.state ~= 'running' or record.token ~= A.t then return { 'stale' } end

local list = call.extra[A.seg]
record.segments = record.segments or {}
local size = record.segments[A.seg]
if size and size ~= A.size and not list then return { 'resized', size } end
local changes = size ~= A.size                 -- a repeated chunk writes the same
if changes then
  record.segments[A.seg] = A.size
  records.put(A.w, record)
end
if list and A.items[1] and A.items[1].at == 0 then   -- the list is of an earlier staging, or this one
  local there, same = redis.call('LRANGE', list, 0, #A.items - 1), true
  for i, item in ipairs(A.items) do same = same and there[i] == item.d end
  if not same then
    redis.call('DEL', list)
  elseif redis.call('LLEN', list) > #A.items then
    redis.call('LTRIM', list, 0, #A.items - 1)
    changes = true
  end
  changes = redis.call('SADD', K.extra, list) == 1 or changes
end
for _, item in ipairs(A.items) do
  if not list then
    local record = item.rec
    if item.more then
      for id, event in pairs(item.more) do redis.call('HSET', K.events, id, event) end
    elseif item.uses == 1 and #item.d <= 2048 then
      record.event = item.d
    else
      redis.call('HSET', K.events, item.e, item.d)
      if item.uses > 1 then redis.call('HSET', K.events, '#' .. item.e, item.uses) end
    end
    local field, packed = A.seg .. '#' .. item.i, records.encode(record)
    if redis.call('HGET', K.queue, field) ~= packed then
      redis.call('HSET', K.queue, field, packed)
      changes = true
    end
  elseif redis.call('LLEN', list) == item.at then
    redis.call('RPUSH', list, item.d)
    changes = true
  end
end
if changes then journal.note('stage', { s = record.step }) end
return { 'staged' }
