-- Renew the lease of everything an owner holds in this shard, in one command.
-- Args: owner, lease (ms), held {member…} that the owner believes it holds, including claims in progress; counts
--   {field -> how much to add}, histograms for monitors, and batch, their id: a batch is counted once.
-- Answers: alive {lost {member…}, beyond {member…}} | fenced. `lost`: believed but not held. `beyond`: held but unknown
-- to the owner (a claim whose reply never arrived); the caller releases it.
--!keys leases fenced owner counters counted

if A.batch and redis.call('GET', K.counted) ~= A.batch then
  for field, n in pairs(A.counts) do redis.call('HINCRBY', K.counters, field, whole(n)) end
  redis.call('SET', K.counted, A.batch, 'PX', 3600000)
end
if redis.call('ZSCORE', K.fenced, A.owner) then return { 'fenced' } end
local believed, lost, beyond = {}, {}, {}
for _, member in ipairs(A.held) do
  believed[member] = true
  if redis.call('SISMEMBER', K.owner, member) == 0 then lost[#lost + 1] = member end
end
for _, member in ipairs(redis.call('SMEMBERS', K.owner)) do
  if not believed[member] then beyond[#beyond + 1] = member end
end
if redis.call('EXISTS', K.owner) == 1 then
  redis.call('ZADD', K.leases, whole(call.now + A.lease), A.owner)
else
  redis.call('ZREM', K.leases, A.owner)
end
return { 'alive', cmsgpack.pack({ lost = lost, beyond = beyond }) }
