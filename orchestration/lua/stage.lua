-- Bring a part of a large fan-out to Redis ahead of the commit, in chunks that keep each script short.
-- Staged work is invisible: no slot, no count, no join sees it until the commit under the same token splices it in.
-- Args: run, w, t token, seg (named after the token, so attempts never mix), items {{i, e, d, rec} | {s, id, d}}.
--   An item with rec becomes entry i of the segment; one with s joins the members of scope id for step s.
-- Answers: staged | stale | closed. Repeating a chunk writes the same fields again; `at` guards the member lists.
--!keys run work events queue extra
--!include record

local status = redis.call('HGET', K.run, 'status')
if status ~= 'running' then return { status and 'closed' or 'unknown' } end
local record = get(A.w)
if not record or record.st ~= 'running' or record.t ~= A.t then return { 'stale' } end

if A.seg then
  record.segs = record.segs or {}
  record.segs[A.seg] = A.size
  put(A.w, record)
end
for _, item in ipairs(A.items) do
  if item.rec then
    if item.d then redis.call('HSET', K.events, item.e, item.d) end
    if item.uses and item.uses > 1 then redis.call('HSET', K.events, '#' .. item.e, item.uses) end
    redis.call('HSET', K.queue, A.seg .. '#' .. item.i, cmsgpack.pack(item.rec))
  else
    local key = X['members:' .. item.id .. ':' .. item.s]
    if item.at == 0 then
      redis.call('DEL', key)
      redis.call('SADD', K.extra, key)
    end
    if redis.call('LLEN', key) == item.at then redis.call('RPUSH', key, item.d) end
  end
end
return { 'staged' }
