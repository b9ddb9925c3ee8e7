-- Delete an ended run before its retention is over: all it holds, and the index entries that lead to it. If its handler
-- is at this run, the handler and the state are deleted too. Args: run, x (its dynamic keys).
-- Answers: purged | running | unknown. Called by `Store.purge`.
--!flags allow-oom
--!keys run retire runs:completed runs:failed runs:cancelled runs:timed_out state versions handler

local status = redis.call('HGET', K.run, 'status')
if status == 'running' or status == 'restoring' then return { 'running' } end
if not status then return { 'unknown' } end
local at = redis.call('GET', K.handler)
redis.call('ZREM', K['runs:' .. status], call.run)
redis.call('ZREM', K.retire, call.run)
for _, key in pairs(call.extra) do redis.call('UNLINK', key) end
for _, key in ipairs(lifetimes.retained()) do redis.call('UNLINK', key) end
if not at or at == call.run then
  redis.call('UNLINK', K.state)
  redis.call('UNLINK', K.versions)
  redis.call('UNLINK', K.handler)
end
return { 'purged' }
