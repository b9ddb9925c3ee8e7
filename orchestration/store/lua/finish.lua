-- End a run from outside its steps: cancel, time-out. The first end wins.
-- Args: run, status, event (the terminal envelope), timer (only if the time-out of this run is due), common limits.
-- Answers: ended {as for a commit} | closed status | unknown | early.
--!keys run timers

local status = redis.call('HGET', K.run, 'status')
if not status then
  redis.call('ZREM', K.timers, 'timeout|' .. call.run)
  return { 'unknown' }
end
if status ~= 'running' then
  redis.call('ZREM', K.timers, 'timeout|' .. call.run)
  return { 'closed', status }
end
if A.timer then
  local due = tonumber(redis.call('ZSCORE', K.timers, 'timeout|' .. call.run))
  if not due or due > call.now then return { 'early' } end
end
finish.from_outside(A.status, A.event)
return apply.answer('ended')
