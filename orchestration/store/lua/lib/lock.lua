-- The lock of ctx.store. K.lock is the edit in progress, K.next the process that edits next because it waited long.
-- Args: me (the caller's process), reserve (it has waited long), lock (its lock token, when it edits).
--!keys lock next

function lock.drop()
  if A.lock and redis.call('GET', K.lock) == A.lock then redis.call('DEL', K.lock) end
end

-- The answer to a writer that has to wait for `holder`. One that has waited long reserves the next turn; it polls more
-- often than the reservation lasts.
function lock.held(holder)
  if A.reserve and not redis.call('SET', K.next, A.me, 'NX', 'PX', 500) and redis.call('GET', K.next) == A.me then
    redis.call('PEXPIRE', K.next, 500)
  end
  return { 'held', holder }
end
