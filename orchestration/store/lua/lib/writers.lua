-- Who may write to a state (K.state). A writer inside a step names its work item (A.w) and token (A.t); one outside of
-- the run names neither. K.lock is the edit in progress, K.next the process that enters next because it waited long.
-- Args: w, t, me (the caller's process), reserve (it has waited long), lock (its lock token, when it edits).

-- Why the writer may not write (closed stale unknown), or nothing; then the run's status and the writer's record.
local function refusal()
  local status = redis.call('HGET', K.run, 'status')
  if not A.w then return nil, status end
  if status ~= 'running' then return status and 'closed' or 'unknown' end
  local record = get(A.w)
  if not record or record.st ~= 'running' or record.t ~= A.t then return 'stale' end
  return nil, status, record
end

local function drop_lock()
  if A.lock and redis.call('GET', K.lock) == A.lock then redis.call('DEL', K.lock) end
end

-- The answer to a writer that has to wait for `holder`. One that has waited long reserves the next turn; it polls more
-- often than the reservation lasts.
local function held(holder)
  if A.reserve and not redis.call('SET', K.next, A.me, 'NX', 'PX', 500) and redis.call('GET', K.next) == A.me then
    redis.call('PEXPIRE', K.next, 500)
  end
  return { 'held', holder }
end
