-- Logs that are bounded in bytes as well as in entries.

-- Whether to check the size of a log: at every 32nd `count`, and after a large entry.
function bounded.is_due(count, added, max)
  return count % 32 == 0 or added >= max / 64
end

-- How many entries a log of this length may keep, according to the memory it uses.
function bounded.affordable(key, length, max)
  local used = redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0)
  if used <= max then return length end
  return math.max(1, math.floor(length * 0.9 * max / used))   -- drops more than needed, to make room for more entries
end
