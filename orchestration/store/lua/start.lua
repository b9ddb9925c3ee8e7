-- Begin a run: its record, its plan, its first work items, its time-out. What `restore` has written becomes live.
-- Args: run, nonce (the caller's; a repetition with it gets the same answer), plan (as JSON), meta {field value
--   …}, timeout (ms or absent), limit (how many runs of its workflow may execute at a time, or absent; with it nothing
--   is dispatched before `begin`), and the common limits.
-- push {work id = {list, message} …}: messages for the broker, which is this same Redis.
-- busy (for a run of a session: what to do while another one is in progress): reject | queue | interrupt |
--   rollback; most (how many runs may wait in its line), fills (commands that it begins with if it waits), cancelled
--   (the event that ends the other one).
-- Body: commands. Answers: started {dispatches, leaving, following} | exists, and for sessions: running | full | closed
-- | forgotten (the state cannot be put back). Atomic, including the check of the session's run; a repeated call changes
-- nothing.
--!keys run journal runs:running plan state versions handler session

local known = redis.call('HMGET', K.run, 'nonce', 'started', 'parts')
if known[1] and known[1] ~= A.nonce then return { 'exists', cmsgpack.pack({}) } end
if known[2] then return { 'started', known[2] } end
local at = redis.call('GET', K.handler)
local is_busy, waits, version = false, false, nil
if A.busy then
  if redis.call('HEXISTS', K.session, 'closed') == 1 then return { 'closed', cmsgpack.pack({}) } end
  at = at or turns.session_id()               -- a run that was started with the session's name as its id
  is_busy = turns.is_busy(at)
  local takes_over = A.busy == 'interrupt' or A.busy == 'rollback'
  waits = A.waits or not takes_over and (is_busy or turns.length() > 0)
  if waits and A.busy == 'reject' then return { 'running', cmsgpack.pack({}) } end
  if waits and turns.length() >= (A.most or math.huge) then return { 'full', cmsgpack.pack({}) } end
  if is_busy and A.busy == 'rollback' then
    version = turns.version_before(at)
    if not version then return { 'forgotten', cmsgpack.pack({}) } end
  end
elseif at then
  return { 'exists', cmsgpack.pack({}) }    -- a session has this name
end
if known[3] then
  for _, key in ipairs(lifetimes.retained()) do redis.call('PERSIST', key) end
  for _, key in pairs(call.named) do redis.call('PERSIST', key) end
end

redis.call('SET', K.plan, A.plan, 'NX')
redis.call('HSET', K.run, 'status', 'running', 'nonce', A.nonce, 'created_at', call.now, unpack(A.meta))
redis.call('ZADD', K['runs:running'], call.now, call.run)
if waits then
  turns.wait(at)
else
  if is_busy then turns.interrupt(at, A.cancelled, version) end
  if A.busy then turns.take() end
  beginning.begin_or_wait(A.limit, A.timeout)
end
apply.commands(unpacked_body())
redis.call('PERSIST', K.state)             -- keys written before the start have an expiry
redis.call('PERSIST', K.versions)
redis.call('PERSIST', K.journal)
A.waits = waits or nil                     -- for the journal: in a replay of the start, the line is empty
journal.write('start', { a = 0, v = versions.present() })
call.had_session = waits and not is_busy   -- a process of an earlier release has ended the run before these
local reply = apply.answer('started')
redis.call('HSET', K.run, 'started', reply[2])
return reply
