-- Put ctx.store back to a version, as one write that makes a new version, and journal it.
-- Args: run, me, reserve (see lib/lock.lua), id (of this write, as in `state_write`), version, idle (only while no run
-- of the session is in progress or waits), common limits.
-- Answers: written version | busy | held holder (an edit is in progress) | forgotten (there is no such version, or the
-- writes since are not kept). Repeating a write within 60 s changes nothing.
--!keys journal run answer state lock handler

if redis.call('GET', K.answer) == A.id then return { 'written', whole(versions.present()) } end
if A.idle and (turns.is_busy(redis.call('GET', K.handler) or turns.session_id()) or turns.length() > 0) then
  return { 'busy' }
end
local holder = redis.call('GET', K.lock)
if holder then return lock.held(holder) end
local life = redis.call('PTTL', K.state)
local version = versions.put_back_and_journal(A.version)
if not version then return { 'forgotten' } end
if life > 0 then redis.call('PEXPIRE', K.state, life) end   -- it may have become empty meanwhile
if redis.call('HGET', K.run, 'status') ~= 'running' and redis.call('PTTL', K.journal) == -1 then
  redis.call('PEXPIRE', K.journal, retention.of_run())
end
redis.call('SET', K.answer, A.id, 'PX', 60000)
return { 'written', whole(version) }
