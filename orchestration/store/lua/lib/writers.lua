-- Who may write to a state. A writer inside a step passes its work item (A.w) and token (A.t); one outside of the run
-- passes neither.
--!keys run

-- Returns why the writer may not write (closed stale unknown), or nil, the run's status and the writer's record.
function writers.refusal()
  local status = redis.call('HGET', K.run, 'status')
  if not A.w then return nil, status end
  if status ~= 'running' then return status and 'closed' or 'unknown' end
  local record = records.get(A.w)
  if not record or record.state ~= 'running' or record.token ~= A.t then return 'stale' end
  return nil, status, record
end
