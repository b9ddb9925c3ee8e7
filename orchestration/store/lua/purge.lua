-- Delete an ended run before its retention is over: all its keys, and its entries in indexes. If it is the current run
-- of its session, the session and its state are deleted too. Args: run, x (its dynamic keys).
-- Answers: purged | running | unknown. Called by `Store.purge`.
--!flags allow-oom
--!keys run retire runs:completed runs:failed runs:cancelled runs:timed_out handler

local status = redis.call('HGET', K.run, 'status')
if status == 'running' or status == 'restoring' then return { 'running' } end
if not status then return { 'unknown' } end
local at = redis.call('GET', K.handler)
redis.call('ZREM', K['runs:' .. status], call.run)
redis.call('ZREM', K.retire, call.run)
for _, key in pairs(call.named) do redis.call('UNLINK', key) end
for _, key in ipairs(lifetimes.retained()) do redis.call('UNLINK', key) end
turns.unlist()
local is_of_session = string.find(call.run, '.', 1, true)   -- which may have been deleted, and another one begun
if (at == call.run or not at and not is_of_session) and turns.length() == 0 then
  turns.forget()
end
return { 'purged' }
