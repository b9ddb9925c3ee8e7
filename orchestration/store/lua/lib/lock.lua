-- The lock of ctx.store. K.lock is the edit in progress, K.next the process that edits next because it waited long.
-- Args: me (the caller's process), reserve (it has waited long), lock (its lock token, when it edits), px (how long a
-- lock lives, ms).
--!keys lock next

local NEXT_PX = 500

function lock.drop()
  if A.lock and redis.call('GET', K.lock) == A.lock then redis.call('DEL', K.lock) end
end

-- The answer to a writer that has to wait for `holder`. One that has waited long reserves the next turn; it polls more
-- often than the reservation lasts. A key that would last longer than its limit was set before Redis's clock was set
-- back, and is shortened.
function lock.held(holder)
  if A.reserve and not redis.call('SET', K.next, A.me, 'NX', 'PX', NEXT_PX) and redis.call('GET', K.next) == A.me then
    redis.call('PEXPIRE', K.next, NEXT_PX)
  end
  if redis.call('PTTL', K.next) > NEXT_PX then redis.call('PEXPIRE', K.next, NEXT_PX) end
  if A.px and redis.call('PTTL', K.lock) > A.px then redis.call('PEXPIRE', K.lock, A.px) end
  return { 'held', holder }
end
