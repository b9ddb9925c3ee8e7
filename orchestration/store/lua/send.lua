-- An event from outside the run.
-- Args: run, id of this send (the caller's), wv as in commit, and the common limits.
-- Body: commands. Answers: sent {dispatches, ended} | changed | closed | unknown.
-- Repeating a send within the hour changes nothing.
--!keys run received
--!include call journal slots apply

local meta = redis.call('HMGET', K.run, 'status', 'wv', 'unbegun')
if not meta[1] then return { 'unknown' } end
if redis.call('ZSCORE', K.received, A.id) then return answer('sent') end
if meta[1] ~= 'running' then return { 'closed' } end
if A.wv and A.wv ~= tonumber(meta[2] or 0) then return { 'changed' } end

awaits_admission = meta[3]
source = 'outside'
redis.call('ZADD', K.received, NOW, A.id)
redis.call('ZREMRANGEBYSCORE', K.received, '-inf', NOW - 3600000)
apply(BODY)
journal('send', { id = A.id })
return answer('sent')
