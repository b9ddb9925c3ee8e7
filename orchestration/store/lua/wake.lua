-- A timer of a work item is due: a delayed retry is ready, or a waiter has timed out.
-- Args: run, timer (its member in K.timers), kind retry|waiter, w, wt (waiter id), and the common limits.
-- Answers: woken {dispatches, ended, plan} | early | closed. The same script removes the timer, so it fires once.
--!keys run timers

local due = tonumber(redis.call('ZSCORE', K.timers, A.timer))
if not due or due > call.now then return { 'early' } end
local meta = redis.call('HMGET', K.run, 'status', 'unbegun', 'plan')
if meta[1] == 'restoring' then                            -- its timers exist before it is live
  redis.call('ZADD', K.timers, whole(call.now + A.redispatch), A.timer)   -- look again later
  return { 'early' }
end
redis.call('ZREM', K.timers, A.timer)
if meta[1] ~= 'running' then return { 'closed' } end
call.awaits_admission = meta[2]
if A.kind == 'retry' then
  local record = records.get(A.w)
  if record and record.state == 'delayed' then slots.enqueue_or_dispatch(record) end
else
  apply.commands({ { o = 'resume', w = A.w, wt = A.wt } })
end
journal.write('wake', { w = A.w, kind = A.kind })
return apply.answer('woken', { plan = meta[3] })
