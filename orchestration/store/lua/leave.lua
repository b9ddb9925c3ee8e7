-- A run has ended: it gives back its place, or leaves the line; in the shard of the workflow's name.
-- Args: workflow, ticket, look as in `admit`. Answers: left {ticket …}: who is to begin now.
--!keys limits admitted waiting
--!include call admit_waiting

redis.call('ZREM', K.admitted, A.ticket)
redis.call('ZREM', K.waiting, A.ticket)
local admitted = admit_waiting()
if redis.call('ZCARD', K.admitted) + redis.call('ZCARD', K.waiting) == 0 then
  redis.call('HDEL', K.limits, A.workflow)
end
return { 'left', cmsgpack.pack(admitted) }
