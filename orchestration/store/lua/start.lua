-- Begin a run: its record, its plan, its first work items, its time-out. What `restore` has brought becomes live.
-- Args: run, nonce (the caller's; asking again with it gives the same answer), plan digest and json, meta {field value
--   …}, timeout (ms or absent), limit (how many runs of its workflow may execute at a time, or absent; with it nothing
--   is dispatched before `begin`), and the common limits.
-- push {work id = {list, message} …}: messages for the broker, which is this same Redis.
-- handler (for a run that continues a named handler: the run that the handler is at, '' for none) and x.before, that
--   run's record: whether the handler may continue and the start are one decision.
-- Body: commands. Answers: started | exists | moved (the handler is at another run by now) | running (its run has not
-- ended). Atomic; a repeated call changes nothing.
--!keys run journal runs:running plan state versions handler

local known = redis.call('HMGET', K.run, 'nonce', 'started', 'parts')
if known[1] and known[1] ~= A.nonce then return { 'exists', cmsgpack.pack({}) } end
if known[2] then return { 'started', known[2] } end
local at = redis.call('GET', K.handler)
if A.handler then
  if (at or '') ~= A.handler then return { 'moved', cmsgpack.pack({}) } end
  local status = A.before and redis.call('HGET', call.extra['before'], 'status')
  if status == 'running' or status == 'restoring' then return { 'running', cmsgpack.pack({}) } end
elseif at then
  return { 'exists', cmsgpack.pack({}) }    -- a handler has this name
end
if known[3] then
  for _, key in ipairs(lifetimes.retained()) do redis.call('PERSIST', key) end
  for _, key in pairs(call.extra) do redis.call('PERSIST', key) end
end

redis.call('SET', K.plan, A.plan, 'NX')
redis.call('HSET', K.run, 'status', 'running', 'nonce', A.nonce, 'created_at', call.now, unpack(A.meta))
redis.call('ZADD', K['runs:running'], call.now, call.run)
beginning.begin_or_wait(A.limit)
apply.commands(unpacked_body())
redis.call('PERSIST', K.state)             -- what was written before the start was to expire
redis.call('PERSIST', K.versions)
redis.call('PERSIST', K.journal)
if A.handler then redis.call('SET', K.handler, call.run) end
journal.write('start', { a = 0 })
local reply = apply.answer('started')
redis.call('HSET', K.run, 'started', reply[2])
return reply
