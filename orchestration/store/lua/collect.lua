-- collect_events: add one event to a buffer; the call that completes the set gets the set, once.
-- Members are keyed by their call (work item and n-th call for this buffer), so a repeated attempt adds nothing and
-- gets the earlier answer. Surplus events stay for the next set.
-- Args: run, w, t token, buffer ('step|buffer id', kept per list for snapshots), call (field name), type, d envelope,
--   types {{name, n, key}…} with key a logical buffer name, taken (logical name of the list that receives a completed
--   set), wi (within how many ms a set must become complete, if it must). Answers: waiting | complete | stale | closed.
-- A completed list holds the members grouped by type in the order of `types`.
--!keys run extra collect outbox

local status = redis.call('HGET', K.run, 'status')
if status ~= 'running' then return { status and 'closed' or 'unknown' } end
local record = records.get(A.w)
if not record or record.state ~= 'running' or record.token ~= A.t then return { 'stale' } end
local known = redis.call('HGET', K.collect, A.call)
record.exchange_calls = record.exchange_calls or {}       -- calls of this attempt
if not record.exchange_calls[A.call] then
  record.exchange_calls[A.call] = 1
  record.exchanges = (record.exchanges or 0) + 1
  if known then
    records.put(A.w, record)
    journal.note('collect', { s = record.step })
  end
end
if known then return { known } end

local complete, wanted = true, false
for _, type in ipairs(A.types) do
  if type.name == A.type then
    wanted = true
    if redis.call('RPUSH', call.extra[type.key], A.d) == 1 then
      redis.call('SADD', K.extra, call.extra[type.key])
      redis.call('HSET', K.collect, type.key, A.buffer)
    end
  end
  if redis.call('LLEN', call.extra[type.key]) < type.n then complete = false end
end
if not wanted then
  journal.note('collect', { s = record.step })
  return { 'waiting' }
end
record.calls = record.calls or {}
record.calls[#record.calls + 1] = A.call
if complete then
  local target = call.extra[A.taken]
  for _, type in ipairs(A.types) do
    for from = 0, type.n - 1, 1000 do
      local some = redis.call('LRANGE', call.extra[type.key], from, math.min(from + 1000, type.n) - 1)
      redis.call('RPUSH', target, unpack(some))
    end
    redis.call('LTRIM', call.extra[type.key], type.n, -1)
    if redis.call('EXISTS', call.extra[type.key]) == 0 then
      redis.call('SREM', K.extra, call.extra[type.key])
      redis.call('HDEL', K.collect, type.key)
    end
  end
  redis.call('SADD', K.extra, target)
  record.taken = record.taken or {}
  record.taken[#record.taken + 1] = A.taken
end
if A.wi then
  local member, left = 'buffer|' .. call.run .. '|' .. A.buffer, 0
  for _, type in ipairs(A.types) do left = left + redis.call('LLEN', call.extra[type.key]) end
  if complete then redis.call('ZREM', K.outbox, member) end
  if left > 0 then redis.call('ZADD', K.outbox, 'NX', whole(call.now + A.wi), member) end
end
records.put(A.w, record)
journal.note('collect', { s = record.step })
local reply = complete and 'complete' or 'waiting'
redis.call('HSET', K.collect, A.call, reply)
return { reply }
