-- Timers of runs.
--!keys timers swept_at

-- Sets a timer. Redis's clock may have been set back since the sweep last looked at this shard (`look.lua`). As soon as
-- the sweep notices, it sets all timers back by as much: one that is set before that counts from where the clock was.
function timing.set_timer(delay, member)
  local now = math.max(call.now, tonumber(redis.call('GET', K.swept_at) or 0))
  redis.call('ZADD', K.timers, whole(now + delay), member)
end
