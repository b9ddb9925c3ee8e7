-- The end of a run, from a step or from outside: the first one wins, everything later finds status ~= running.
--!keys run extra timers awaiting_admission releasing retire runs:running runs:completed runs:failed runs:cancelled
--!keys runs:timed_out ended state handler
--!include call publish lifetimes

local leaving                      -- ticket|workflow of the admission that this end releases
local function finish(status, event)
  redis.call('HSET', K.run, 'status', status, 'ended_at', NOW, 'ending', event)
  publish(event)
  redis.call('ZREM', K['runs:running'], RUN)
  redis.call('ZADD', K['runs:' .. status], NOW, RUN)
  redis.call('ZREM', K.timers, 'timeout|' .. RUN)
  local admission = redis.call('HMGET', K.run, 'ticket', 'workflow')
  if admission[1] then                   -- a run of a limited workflow: admitted, or in line
    leaving = admission[1] .. '|' .. admission[2]
    redis.call('ZADD', K.releasing, NOW, leaving)
    redis.call('ZREM', K.awaiting_admission, RUN)
    redis.call('HDEL', K.run, 'unbegun')
  end
  if status == 'completed' then
    for _, key in ipairs(spent_keys()) do redis.call('UNLINK', key) end
  end
  for _, key in ipairs(retained_keys()) do redis.call('PEXPIRE', key, A.keep) end
  if A.state then
    redis.call('PEXPIRE', K.state, A.keep)
    redis.call('PEXPIRE', K.handler, A.keep)
  end
  if redis.call('EXISTS', K.extra) == 1 then redis.call('ZADD', K.retire, NOW, RUN) end
  -- 'run' NUL {status, event}: a caller that waits for the end need not ask for it, but reads a large event.
  redis.call('PUBLISH', K.ended, RUN .. '\0' .. cmsgpack.pack({ status, #event <= 65536 and event or '' }))
end
