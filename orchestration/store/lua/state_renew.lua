-- Extend the lock of an edit whose block is still open. A writer that lost its work token loses the lock as well.
-- Args: run, w, t (see lib/writers.lua), lock, px (ms). Answers: renewed | lost | closed | stale | unknown.
--!keys lock

local refused = writers.refusal()
if refused then
  lock.drop()
  return { refused }
end
if redis.call('GET', K.lock) ~= A.lock then return { 'lost' } end
redis.call('PEXPIRE', K.lock, A.px)
return { 'renewed' }
