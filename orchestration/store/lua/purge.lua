-- Forget an ended run now, not when its retention is over: all it holds, and what leads to it. With the run that a
-- handler is at go the handler and the state. Args: run, x (its dynamic keys).
-- Answers: purged | running | unknown. Called by `Store.purge`.
--!keys run work events slots free queue scopes joins stream trace journal inbox waiters extra received collect retire runs:completed runs:failed runs:cancelled runs:timed_out state handler
--!include record

local HELD = { 'run', 'work', 'events', 'slots', 'free', 'queue', 'scopes', 'joins', 'stream', 'trace', 'journal',
               'inbox', 'waiters', 'extra', 'received', 'collect' }

local status = redis.call('HGET', K.run, 'status')
if status == 'running' or status == 'restoring' then return { 'running' } end
if not status then return { 'unknown' } end
local at = redis.call('GET', K.handler)
redis.call('ZREM', K['runs:' .. status], RUN)
redis.call('ZREM', K.retire, RUN)
for _, key in pairs(X) do redis.call('UNLINK', key) end
for _, name in ipairs(HELD) do redis.call('UNLINK', K[name]) end
if not at or at == RUN then
  redis.call('UNLINK', K.state)
  redis.call('UNLINK', K.handler)
end
return { 'purged' }
