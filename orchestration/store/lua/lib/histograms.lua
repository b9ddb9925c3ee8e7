-- Histograms for monitors, kept in the shard's counters: `what|n` counts the values up to the n-th bound and above the
-- one before, `what|sum` is their sum in ms. Two commands for each observation, whatever is observed.
--!keys counters
local BOUNDS = { 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 1800000 }   -- ms

function histograms.observe(what, ms)
  if call.again then return end
  local n = 1
  while BOUNDS[n] and ms > BOUNDS[n] do n = n + 1 end
  redis.call('HINCRBY', K.counters, what .. '|' .. n, 1)
  redis.call('HINCRBY', K.counters, what .. '|sum', whole(ms))
end
