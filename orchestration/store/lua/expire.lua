-- A set of events that a step joins or collects has not become complete in time: drop the events that have arrived.
-- Args: run, kind (`join` or `buffer`, of collect_events), b (the buffer: step|scope and key, or step|buffer id), types
--   (of a join's events), lists (logical names of a buffer's lists), common limits.
-- Body: commands that report this. Answers: expired {dispatches} | early | closed (no events wait there any more).
-- Repeating it changes nothing. If the run has ended, nothing is dropped until it is retried.
--!keys run outbox extra collect

local member = A.kind .. '|' .. call.run .. '|' .. A.b
local due = tonumber(redis.call('ZSCORE', K.outbox, member))
if not due then return { 'closed' } end
local status = redis.call('HGET', K.run, 'status')
if status ~= 'running' then
  redis.call('ZREM', K.outbox, member)
  if status and status ~= 'completed' then set_limits.keep(member) end
  return { 'closed' }
end
if due > call.now then return { 'early' } end
redis.call('ZREM', K.outbox, member)
local dropped = 0
for _, type in ipairs(A.types or {}) do
  while join_buffers.size(A.b, type) > 0 do
    events.drop(join_buffers.pop(A.b, type).e)
    dropped = dropped + 1
  end
end
for _, name in ipairs(A.lists or {}) do
  local key = call.extra[name]
  dropped = dropped + redis.call('LLEN', key)
  redis.call('UNLINK', key)
  redis.call('SREM', K.extra, key)
  redis.call('HDEL', K.collect, name)
end
if dropped == 0 then return { 'closed' } end
call.awaits_admission = redis.call('HGET', K.run, 'unbegun')
call.source = 'expired'
apply.commands(unpacked_body())
journal.write('expire', { b = A.b, n = dropped })
return apply.answer('expired')
