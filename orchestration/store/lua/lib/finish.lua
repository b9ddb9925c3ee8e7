-- The end of a run, from a step or from outside: the first one wins, later calls find status ~= running.
--!keys run extra timers awaiting_admission releasing retire runs:running runs:completed runs:failed
--!keys runs:cancelled runs:timed_out ended state versions handler outbox

-- 'run' NUL {status, event}: a caller that waits for the end need not read a small event. A large one is left out,
-- because every worker and client receives every end in the shard, and at most one caller wants the event.
local function announce(status, event)
  if call.again then return end
  redis.call('PUBLISH', K.ended .. (A.channels or ''),
    call.run .. '\0' .. cmsgpack.pack({ status, #event <= 1024 and event or '' }))
end

-- The run has not ended after all: processes that have received its end ask Redis again.
function finish.undo() announce('running', '') end

-- Sets `call.leaving` to the ticket|workflow of the admission that this end releases, `call.reports` to the run that
-- waits for this one, and `call.parted` if the run had child runs (see lib/children.lua).
function finish.run(status, event)
  redis.call('HSET', K.run, 'status', status, 'ended_at', call.now, 'ending', event)
  publish.event(event)
  redis.call('ZREM', K['runs:running'], call.run)
  redis.call('ZADD', K['runs:' .. status], call.now, call.run)
  redis.call('ZREM', K.timers, 'timeout|' .. call.run)
  local about = redis.call('HMGET', K.run, 'ticket', 'workflow', 'parent', 'children', 'queued', 'options')
  call.keep = retention.of_run(about[6])
  if about[1] then                   -- a run of a limited workflow: admitted, or in line
    call.leaving = about[1] .. '|' .. about[2]
    redis.call('ZADD', K.releasing, call.now, call.leaving)
    redis.call('ZREM', K.awaiting_admission, call.run)
    redis.call('HDEL', K.run, 'unbegun')
  end
  if about[3] then
    call.reports = about[3]
    redis.call('ZADD', K.outbox, whole(call.now + A.redispatch), 'ended|' .. call.run)
  end
  if about[4] then
    call.parted = true
    redis.call('ZADD', K.outbox, whole(call.now + A.redispatch), 'parted|' .. call.run)
  end
  if status == 'completed' then
    redis.call('UNLINK', unpack(lifetimes.spent()))
  end
  for _, key in ipairs(lifetimes.retained()) do redis.call('PEXPIRE', key, call.keep) end
  if about[5] then
    redis.call('HDEL', K.run, 'unbegun')
    turns.leave()
  elseif redis.call('PEXPIRE', K.handler, A.keep) == 1 then
    turns.expire()
  else
    redis.call('PEXPIRE', K.state, call.keep)
    redis.call('PEXPIRE', K.versions, call.keep)
  end
  if redis.call('EXISTS', K.extra) == 1 then redis.call('ZADD', K.retire, call.now, call.run) end
  announce(status, event)
end

-- Ends a run from outside its steps: cancelled, or timed out.
function finish.from_outside(status, event)
  call.args = { status = status, event = event }
  journal.write('end', { status = status })
  finish.run(status, event)
  call.ended = true
  publish.save()
end
