-- A run asks for admission to its workflow, which limits how many runs execute at a time; in the shard of that name.
-- Args: workflow, ticket, since (its start in us: the order of the line), limit, said_at (when the run's client
--   stated that limit; the newest counts), look (ms until the sweep checks what was admitted).
-- Answers: admitted {ticket …}: the runs that begin now; includes this ticket if it is admitted, now or earlier.
--!keys limits admitted waiting

local known = redis.call('HGET', K.limits, A.workflow)
if not known or tonumber(string.match(known, '%d+$')) <= A.said_at then
  redis.call('HSET', K.limits, A.workflow, string.format('%.0f %.0f', A.limit, A.said_at))
end
local has_place = redis.call('ZSCORE', K.admitted, A.ticket)
if not has_place then redis.call('ZADD', K.waiting, whole(A.since), A.ticket) end
local admitted = admissions.admit()
if has_place then admitted[#admitted + 1] = A.ticket end
return { 'admitted', cmsgpack.pack(admitted) }
