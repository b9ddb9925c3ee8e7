-- Limits of sets of events that have to become complete in time, joined or collected: entries of K.outbox.
--!keys joins collect

-- Calls `act` with the entry of each buffer that has something, in any order; some have no limit.
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
