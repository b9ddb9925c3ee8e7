-- End a run from outside its steps: cancel, time-out. The first end wins.
-- Args: run, status, event (the terminal envelope), timer (only if the time-out of this run is due), common limits.
-- Answers: ended, then the run that waits for this one ('' for none), then 1 if it had child runs | closed {status} |
-- unknown | early.
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
journal.write('end', { status = A.status })
finish.run(A.status, A.event)
publish.save()
return { 'ended', call.reports or '', call.parted and 1 or 0 }
