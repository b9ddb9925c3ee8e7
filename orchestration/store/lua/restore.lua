-- Write one part of a snapshot to Redis, before the `start` that makes it a run. Nothing is dispatched yet: work that
-- is ready waits in the FIFO of its step until `start` fills the slots.
-- Args: run, nonce, part (from 1), aside (the keys only stand for those of the run, to which `rewind` renames them),
-- and the common limits. Body: what to put, see lib/restoring.lua.
-- Answers: restored | exists. Repeating a part changes nothing. The keys of an abandoned restoration expire.
--!keys run extra state handler journal timers outbox

local body = unpacked_body()
local ABANDONED_AFTER = 3600000

local known = redis.call('HMGET', K.run, 'nonce', 'parts', 'status')
if known[1] and (known[1] ~= A.nonce or known[3] ~= 'restoring') then
  return { known[1] == A.nonce and 'restored' or 'exists' }
end
if tonumber(known[2] or 0) >= A.part then return { 'restored' } end
if redis.call('EXISTS', K.handler) == 1 then return { 'exists' } end   -- a session of this name uses the state

redis.call('HSET', K.run, 'status', 'restoring', 'nonce', A.nonce, 'parts', A.part)
restoring.put(body, ABANDONED_AFTER)
scopes.settle()
publish.save()
if A.aside then
  redis.call('PEXPIRE', K.timers, ABANDONED_AFTER)
  redis.call('PEXPIRE', K.outbox, ABANDONED_AFTER)
else
  journal.note('restore', { part = A.part })
end
for _, key in ipairs(lifetimes.spent()) do redis.call('PEXPIRE', key, ABANDONED_AFTER) end
for _, name in ipairs({ 'run', 'extra', 'state', 'journal' }) do redis.call('PEXPIRE', K[name], ABANDONED_AFTER) end
return { 'restored' }
