-- An event from outside the run.
-- Args: run, id of this send (the caller's), wv, seen and answers as in commit, and the common limits.
-- Body: commands. Answers: sent {dispatches, ended} | changed | closed | unknown.
-- Repeating a send within the hour changes nothing.
--!keys run received
--!include call journal slots apply

local status = run_status()
if not status then return { 'unknown' } end
if redis.call('ZSCORE', K.received, A.id) then return answer('sent') end
if status ~= 'running' then return { 'closed' } end
if outdated() then return { 'changed' } end

awaits_admission = redis.call('HGET', K.run, 'unbegun')
source = 'outside'
redis.call('ZADD', K.received, NOW, A.id)
redis.call('ZREMRANGEBYSCORE', K.received, '-inf', NOW - 3600000)
apply(BODY)
journal('send', { id = A.id })
return answer('sent')
