-- Logs that are bounded in bytes as well as in entries.

-- How many entries a log may keep, by the memory it uses. Looked at every 32 entries, and after a large one.
function bounded.affordable(key, length, added, max)
  if length % 32 ~= 0 and added < max / 64 then return length end
  local used = redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0)
  if used <= max then return length end
  return math.max(1, math.floor(length * 0.9 * max / used))   -- some more than needed: not again with the next entry
end
