-- A run asks for its place among those of its workflow that may go on at once; in the shard of the workflow's name.
-- Args: workflow, ticket, since (its start in µs: the order of the line), limit, said_at (when the run's client said
--   that limit; the newest counts), look (ms until the sweep looks at who has got a place).
-- Answers: admitted {ticket …}: who is to begin now, this ticket among them when it has its place, be it since an
-- earlier asking.
--!keys limits admitted waiting
--!include call admit_waiting

local known = redis.call('HGET', K.limits, A.workflow)
if not known or tonumber(string.match(known, '%d+$')) <= A.said_at then
  redis.call('HSET', K.limits, A.workflow, string.format('%.0f %.0f', A.limit, A.said_at))
end
local has_place = redis.call('ZSCORE', K.admitted, A.ticket)
if not has_place then redis.call('ZADD', K.waiting, whole(A.since), A.ticket) end
local admitted = admit_waiting()
if has_place then admitted[#admitted + 1] = A.ticket end
return { 'admitted', cmsgpack.pack(admitted) }
