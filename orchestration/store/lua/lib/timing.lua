-- Timers of runs.
--!keys timers swept_at

-- Sets a timer. Redis's clock may have been set back since the sweep last looked at this shard (`look.lua`), which sets
-- all timers back by as much as soon as it notices: a timer that is set meanwhile counts from where the clock was.
function timing.set_timer(delay, member)
  local now = math.max(call.now, tonumber(redis.call('GET', K.swept_at) or 0))
  redis.call('ZADD', K.timers, whole(now + delay), member)
end
