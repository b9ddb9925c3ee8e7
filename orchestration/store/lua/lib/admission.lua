-- A run of a workflow that limits how many of its runs go on at once waits for a place before it begins. Until then
-- its work items queue up at their steps: the start event's, what is sent to it, what its timers wake.
-- Its ticket 'run|instant of the start in µs' is what it asks for a place with; each life of a run has another one, so
-- that nobody can give back the place of a life that has begun since. It goes on with `begin`.

local function begin_or_wait(limit)
  if limit then
    unbegun = '1'
    local ticket = RUN .. '|' .. whole(clock[1] * 1000000 + clock[2])
    redis.call('HSET', K.run, 'ticket', ticket, 'limit', limit, 'unbegun', unbegun, 'timeout', A.timeout or '')
    redis.call('HDEL', K.run, 'begun')
    redis.call('ZADD', K.awaiting_admission, whole(NOW + A.redispatch), RUN)
  elseif A.timeout then
    redis.call('ZADD', K.timers, whole(NOW + A.timeout), 'timeout|' .. RUN)
  end
end
