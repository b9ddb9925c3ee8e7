-- Time limits of sets of events, joined or collected: entries of K.outbox. For a limit that is over after the run has
-- ended, an entry `parked|…` stays as long as the run: if the run is retried, the set expires then.
--!keys joins collect outbox

-- Calls `act` with the entry of each buffer that has events, in any order; some have no limit.
function set_limits.each(act)
  local seen = {}
  local function once(member)
    if not seen[member] then act(member) end
    seen[member] = true
  end
  for _, field in ipairs(redis.call('HKEYS', K.joins)) do
    local b = string.match(field, '^(.*)|[^|]*:t$')
    if b then once('join|' .. call.run .. '|' .. b) end
  end
  local collected = redis.call('HGETALL', K.collect)
  for i = 1, #collected, 2 do
    if string.sub(collected[i], 1, 7) == 'buffer:' then once('buffer|' .. call.run .. '|' .. collected[i + 1]) end
  end
end

function set_limits.keep(member)
  redis.call('ZADD', K.outbox, whole(call.now + A.keep), 'parked|' .. member)
end

function set_limits.drop()
  set_limits.each(function(member) redis.call('ZREM', K.outbox, member, 'parked|' .. member) end)
end

function set_limits.revive()
  set_limits.each(function(member)
    if redis.call('ZREM', K.outbox, 'parked|' .. member) == 1 then redis.call('ZADD', K.outbox, call.now, member) end
  end)
end
