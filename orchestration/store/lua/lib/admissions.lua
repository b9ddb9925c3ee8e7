-- The places of a limited workflow. A script that changes anything here calls `admit_waiting` last, so that there is
-- never a free place while somebody waits.

local A = cmsgpack.unpack(ARGV[1])

-- Gives the free places to the first in line and returns their tickets.
local function admit_waiting()
  local admitted = {}
  local limit = tonumber(string.match(redis.call('HGET', K.limits, A.workflow) or '0', '^%d+'))
  local free = limit - redis.call('ZCARD', K.admitted)
  if free <= 0 then return admitted end
  local clock = redis.call('TIME')
  local look = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000) + A.look)
  for _, ticket in ipairs(redis.call('ZRANGE', K.waiting, 0, free - 1)) do
    redis.call('ZREM', K.waiting, ticket)
    redis.call('ZADD', K.admitted, look, ticket)
    admitted[#admitted + 1] = ticket
  end
  return admitted
end
