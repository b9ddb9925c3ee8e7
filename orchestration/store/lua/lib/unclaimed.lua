-- The unclaimed index: work items that were dispatched and not claimed yet, with the instant of the next look at each.
--!keys unclaimed unclaimed_counts

-- A line is a FIFO of the broker: 'queue/priority'.
function unclaimed.line_of(record)
  return record.queue .. '/' .. (record.priority or 0)
end

function unclaimed.add(wid, line, at)
  if call.again then return end
  if redis.call('ZADD', K.unclaimed, whole(at), call.run .. '|' .. wid .. '|' .. line) == 1 then
    redis.call('HINCRBY', K.unclaimed_counts, line, 1)
  end
end

function unclaimed.drop(wid, line)
  if call.again then return end
  if redis.call('ZREM', K.unclaimed, call.run .. '|' .. wid .. '|' .. line) == 1 then
    if redis.call('HINCRBY', K.unclaimed_counts, line, -1) <= 0 then redis.call('HDEL', K.unclaimed_counts, line) end
  end
end
