-- A run has ended: release its admission, or take it out of the line; in the shard of the workflow's name.
-- Args: workflow, ticket, look as in `admit`. Answers: left {ticket …}: the runs that begin now.
--!keys limits admitted waiting

redis.call('ZREM', K.admitted, A.ticket)
redis.call('ZREM', K.waiting, A.ticket)
local admitted = admissions.admit()
if redis.call('ZCARD', K.admitted) + redis.call('ZCARD', K.waiting) == 0 then
  redis.call('HDEL', K.limits, A.workflow)
end
return { 'left', cmsgpack.pack(admitted) }
