-- Store what the code of a step has logged. Args: run, at (ms: when its first line was logged), lbytes (memory that the
-- run's log may take). Body: the lines; see `tasks/logs/gathered.py`. Answers: kept | unknown.
-- Storing the same lines again changes nothing. The oldest are dropped first; the score of '' is minus their number.
--!keys run logs

local life = redis.call('PTTL', K.run)
if life == -2 then return { 'unknown' } end
redis.call('ZADD', K.logs, A.at, call.packed_commands)
local count = redis.call('ZCARD', K.logs)
if bounded.is_due(count, #call.packed_commands, A.lbytes) then
  local surplus = count - bounded.affordable(K.logs, count, A.lbytes)
  if surplus > 0 then
    local first = redis.call('ZSCORE', K.logs, '') and 1 or 0
    redis.call('ZREMRANGEBYRANK', K.logs, first, first + surplus - 1)
    redis.call('ZINCRBY', K.logs, -surplus, '')
  end
end
if life > 0 then redis.call('PEXPIRE', K.logs, life) end
return { 'kept' }
