-- Clear what a lost attempt had staged and never committed. Args: run, w, t, seg, first, to (entries of this chunk),
--   last (forget the segment). Answers: cleared | stale.
--!keys run work events queue
--!include record

local record = get(A.w)
if not record or record.t ~= A.t then return { 'stale' } end
for i = A.first, A.to do
  local field = A.seg .. '#' .. i
  local raw = redis.call('HGET', K.queue, field)
  if raw then
    local staged = cmsgpack.unpack(raw)
    redis.call('HDEL', K.events, staged.e, '#' .. staged.e)
    redis.call('HDEL', K.queue, field)
  end
end
if A.last and record.segs then
  record.segs[A.seg] = nil
  put(A.w, record)
end
return { 'cleared' }
