-- A set of events that a step joins has not become complete in time: what has arrived of it is dropped.
-- Args: run, b (the buffer: step|scope and key), types (of its events), common limits.
-- Body: commands that say so. Answers: expired {dispatches} | early | closed (nothing waits there any more).
-- Repeating it changes nothing.
--!keys run outbox

local member = 'join|' .. call.run .. '|' .. A.b
local due = tonumber(redis.call('ZSCORE', K.outbox, member))
if redis.call('HGET', K.run, 'status') ~= 'running' then
  redis.call('ZREM', K.outbox, member)
  return { 'closed' }
end
if not due then return { 'closed' } end
if due > call.now then return { 'early' } end
redis.call('ZREM', K.outbox, member)
local dropped = 0
for _, type in ipairs(A.types) do
  while join_buffers.size(A.b, type) > 0 do
    events.drop(join_buffers.pop(A.b, type).e)
    dropped = dropped + 1
  end
end
if dropped == 0 then return { 'closed' } end
call.awaits_admission = redis.call('HGET', K.run, 'unbegun')
call.source = 'expired'
apply.commands(unpacked_body())
journal.write('expire', { b = A.b, n = dropped })
return apply.answer('expired')
