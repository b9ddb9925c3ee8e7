-- Clear what was staged and not committed. Args: run, w, t, seg (as in stage), first, to (entries of this chunk),
--   last (delete the segment's size too). A member list is deleted at once. Answers: cleared | stale.
--!keys events queue extra

local record = records.get(A.w)
if not record or record.token ~= A.t then return { 'stale' } end
local list = call.extra[A.seg]
local changes = false
if list then
  changes = redis.call('UNLINK', list) == 1
  redis.call('SREM', K.extra, list)
end
for i = A.first, list and 0 or A.to do
  local field = A.seg .. '#' .. i
  local raw = redis.call('HGET', K.queue, field)
  if raw then
    local staged_record = records.decode(raw)
    redis.call('HDEL', K.events, staged_record.event_id, '#' .. staged_record.event_id,
      unpack(staged_record.event_ids or {}))
    redis.call('HDEL', K.queue, field)
    changes = true
  end
end
if A.last and record.segments then
  changes = changes or record.segments[A.seg] ~= nil
  record.segments[A.seg] = nil
  records.put(A.w, record)
end
if changes then journal.note('unstage', { s = record.step }) end
return { 'cleared' }
