-- Declare an owner lost: from now on its claims and heartbeats are answered `fenced`. The answer lists what it held,
-- which the caller hands back run by run; the owner stays in `leases` with score 0 until nothing is left, so that the
-- next sweep continues if this one dies in between.
-- Args: owner, known_dead (do not wait for the lease). Answers: held {member…} | alive | done.
--!keys leases fenced counters owner

local lease = tonumber(redis.call('ZSCORE', K.leases, A.owner))
if not lease and not A.known_dead then return { 'done' } end
if lease and lease > call.now and not A.known_dead then return { 'alive' } end
local held = redis.call('SMEMBERS', K.owner)
if #held == 0 and not A.known_dead then   -- idle here, not lost: a lease that covers nothing is not renewed
  redis.call('ZREM', K.leases, A.owner)
  return { 'done' }
end
local is_new = redis.call('ZADD', K.fenced, 'NX', call.now, A.owner) == 1
redis.call('ZREMRANGEBYSCORE', K.fenced, '-inf', call.now - 86400000)
if #held == 0 then
  redis.call('ZREM', K.leases, A.owner)
  return { 'done' }
end
if is_new then redis.call('HINCRBY', K.counters, 'lost_owners', 1) end
redis.call('ZADD', K.leases, 0, A.owner)
return { 'held', cmsgpack.pack(held) }
