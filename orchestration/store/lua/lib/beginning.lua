-- A run of a workflow with a concurrency limit waits for admission before it begins. Until then its work items queue up
-- at their steps: those of the start event and of events sent to it, and those that its timers wake.
-- It asks for admission with its ticket, 'run|instant of the start in us'. A run that is revived gets another ticket,
-- so that a late release cannot take its new admission away. `begin` continues it.
--!keys run awaiting_admission

function beginning.begin_or_wait(limit, timeout)
  if limit then
    call.awaits_admission = '1'
    local ticket = call.run .. '|' .. whole(call.clock[1] * 1000000 + call.clock[2])
    redis.call('HSET', K.run, 'ticket', ticket, 'limit', limit, 'unbegun', call.awaits_admission,
      'timeout', timeout or '')
    redis.call('HDEL', K.run, 'begun')
    redis.call('ZADD', K.awaiting_admission, whole(call.now + A.redispatch), call.run)
  elseif timeout then
    timing.set_timer(timeout, 'timeout|' .. call.run)
  end
end

-- Begins a run that waited, and its time-out. The call's commands dispatch what has queued up at its steps.
function beginning.begin(timeout)
  redis.call('HDEL', K.run, 'unbegun')
  call.awaits_admission = nil
  beginning.begin_or_wait(nil, timeout)
  apply.commands(unpacked_body())
  journal.write('begin', { v = versions.present() })
end
