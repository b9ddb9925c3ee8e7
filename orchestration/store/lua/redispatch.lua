-- Ring again for dispatches that nobody has claimed. Args: run, items {{w, q line}}, ring (ms), redispatch_max (ms).
-- Answers: rung {dispatches}. What is no longer waiting to be claimed leaves the ring.
--!keys run unclaimed counters
--!include call record unclaimed dispatch

local running = redis.call('HGET', K.run, 'status') == 'running'
for _, item in ipairs(A.items) do
  local record = running and get(item.w)
  if record and record.st == 'ready' then
    record.k = (record.k or 0) + 1
    record.d = record.d + 1
    record.da = NOW
    put(item.w, record)
    local pause = math.min(A.redispatch_max, A.redispatch * 2 ^ record.k)
    redis.call('ZADD', K.unclaimed, 'XX', whole(NOW + pause), RUN .. '|' .. item.w .. '|' .. item.q)
    redis.call('HINCRBY', K.counters, 'redispatches', 1)
    dispatches[#dispatches + 1] = { w = item.w, d = record.d, s = record.s, q = record.q, p = record.p or 0 }
  else
    unclaimed_drop(item.w, item.q)
  end
end
return { 'redispatched', cmsgpack.pack({ dispatches = dispatches, ended = false }) }
