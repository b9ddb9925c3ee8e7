-- An attempt of a step has exceeded its time limit without a report: its process hangs. Revoke its token and dispatch
-- the work item again; the next claim sees `late` and records the failure.
-- Args: run, w, timer. Answers: woken {dispatches, plan} | early | closed.
--!keys run timers counters

local due = tonumber(redis.call('ZSCORE', K.timers, A.timer))
if not due or due > call.now then return { 'early' } end
redis.call('ZREM', K.timers, A.timer)
local meta = redis.call('HMGET', K.run, 'status', 'plan')
if meta[1] ~= 'running' then return { 'closed' } end
local record = records.get(A.w)
if record and record.state == 'running' then
  record.late = 1
  redis.call('HINCRBY', K.counters, 'deadlines', 1)
  journal.write('deadline', { w = A.w, s = record.step, o = record.owner, ca = record.claimed_at })
  dispatch.work(A.w, record)
end
return { 'woken', cmsgpack.pack({ dispatches = call.dispatches, ended = false, plan = meta[2] }) }
