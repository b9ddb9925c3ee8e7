-- Ring again for dispatches that nobody has claimed. Args: run, items {{w, q line}}, ring (ms), ring_max (ms).
-- Answers: rung {bells}. What is no longer waiting to be claimed leaves the ring.
--!keys run work ring unclaimed counters
--!include record slots

local running = redis.call('HGET', K.run, 'status') == 'running'
for _, item in ipairs(A.items) do
  local record = running and get(item.w)
  if record and record.st == 'ready' then
    record.k = (record.k or 0) + 1
    record.d = record.d + 1
    record.da = NOW
    put(item.w, record)
    local pause = math.min(A.ring_max, A.ring * 2 ^ record.k)
    redis.call('ZADD', K.ring, 'XX', whole(NOW + pause), RUN .. '|' .. item.w .. '|' .. item.q)
    redis.call('HINCRBY', K.counters, 'redispatches', 1)
    doorbells[#doorbells + 1] = { w = item.w, d = record.d, s = record.s, q = record.q, p = record.p or 0 }
  else
    ring_drop(item.w, item.q)
  end
end
return { 'rung', cmsgpack.pack({ bells = doorbells, ended = false }) }
