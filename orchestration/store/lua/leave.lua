-- A run has ended: it gives back its place, or leaves the line; in the shard of the workflow's name.
-- Args: workflow, ticket, look as in `admit`. Answers: left {ticket …}: who is to begin now.
--!keys places waiting limits
--!include places

redis.call('ZREM', K.places, A.ticket)
redis.call('ZREM', K.waiting, A.ticket)
local admitted = admit_waiting()
if redis.call('ZCARD', K.places) + redis.call('ZCARD', K.waiting) == 0 then
  redis.call('HDEL', K.limits, A.workflow)
end
return { 'left', cmsgpack.pack(admitted) }
