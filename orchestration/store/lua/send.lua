-- Send an event into a run from outside it.
-- Args: run, id of this send (the caller's), wv, seen and answers as in commit, and the common limits.
-- Body: commands. Answers: sent {dispatches, ended} | changed | closed | unknown.
-- Repeating a send within the hour changes nothing.
--!keys run received

local status = counters.status()
if not status then return { 'unknown' } end
if redis.call('ZSCORE', K.received, A.id) then return apply.answer('sent') end
if status ~= 'running' then return { 'closed' } end
if waiters.outdated() then return { 'changed' } end

call.awaits_admission = redis.call('HGET', K.run, 'unbegun')
call.source = 'outside'
redis.call('ZADD', K.received, call.now, A.id)
redis.call('ZREMRANGEBYSCORE', K.received, '-inf', call.now - 3600000)
apply.commands(unpacked_body())
journal.write('send', { id = A.id })
return apply.answer('sent')
