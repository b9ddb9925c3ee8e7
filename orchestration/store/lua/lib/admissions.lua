-- Admission to a workflow with a concurrency limit. A script that changes anything here calls `admissions.admit` last,
-- so that no run waits while there is room.
--!keys limits admitted waiting

-- Admits the first runs in line, as many as there is room for, and returns their tickets.
function admissions.admit()
  local admitted = {}
  local limit = tonumber(string.match(redis.call('HGET', K.limits, A.workflow) or '0', '^%d+'))
  local free = limit - redis.call('ZCARD', K.admitted)
  if free <= 0 then return admitted end
  for _, ticket in ipairs(redis.call('ZRANGE', K.waiting, 0, free - 1)) do
    redis.call('ZREM', K.waiting, ticket)
    redis.call('ZADD', K.admitted, whole(call.now + A.look), ticket)
    admitted[#admitted + 1] = ticket
  end
  return admitted
end
