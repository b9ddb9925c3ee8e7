-- Stored events, with the number of work items that refer to them.
--!keys events

-- One work item no longer refers to an event. The event is deleted with the last one.
function events.drop(id)
  local uses = tonumber(redis.call('HGET', K.events, '#' .. id) or 1)
  if uses > 1 then
    redis.call('HSET', K.events, '#' .. id, uses - 1)
  else
    redis.call('HDEL', K.events, id, '#' .. id)
  end
end
