-- Begin a run: its record, its plan, its first work items, its time-out.
-- Args: run, nonce (caller's; asking again with it gives the same answer), plan digest and json, meta {field value …},
--   timeout (ms or absent), and the common limits.
-- Body: commands. Answers: started | exists. Atomic; a repeated call changes nothing.
--!keys run work events slots free queue scopes joins stream trace journal inbox waiters extra received collect ring unclaimed timers retire runs:running runs:completed runs:failed runs:cancelled runs:timed_out ended plan state
--!include record publish slots scopes joins finish apply

local known = redis.call('HMGET', K.run, 'nonce', 'started')
if known[1] then
  if known[1] ~= A.nonce then return { 'exists', cmsgpack.pack({}) } end
  return { 'started', known[2] }
end

redis.call('SET', K.plan, A.plan, 'NX')
redis.call('HSET', K.run, 'status', 'running', 'nonce', A.nonce, 'created_at', NOW, unpack(A.meta))
redis.call('ZADD', K['runs:running'], NOW, RUN)
if A.timeout then redis.call('ZADD', K.timers, whole(NOW + A.timeout), 'timeout|' .. RUN) end
apply(BODY)
redis.call('PERSIST', K.state)             -- what was written before the start had the retention as lifetime
redis.call('PERSIST', K.journal)
journal('start', { a = 0 })
local reply = answer('started')
redis.call('HSET', K.run, 'started', reply[2])
return reply
