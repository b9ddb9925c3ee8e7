-- End a run from outside its steps: cancel, time-out. The first end wins.
-- Args: run, status, event (the terminal envelope), timer (only if the time-out of this run is due), common limits.
-- Answers: ended | closed {status} | unknown | early.
--!keys run timers
--!include call journal publish finish

local status = redis.call('HGET', K.run, 'status')
if not status then
  redis.call('ZREM', K.timers, 'timeout|' .. RUN)
  return { 'unknown' }
end
if status ~= 'running' then
  redis.call('ZREM', K.timers, 'timeout|' .. RUN)
  return { 'closed', status }
end
if A.timer then
  local due = tonumber(redis.call('ZSCORE', K.timers, 'timeout|' .. RUN))
  if not due or due > NOW then return { 'early' } end
end
journal('end', { status = A.status })
finish(A.status, A.event)
save()
return { 'ended' }
