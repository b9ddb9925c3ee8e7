-- The run's counters. They are read once per call and written once, by `publish.save`: a verb that changes one or
-- publishes anything calls that at its end.
--!keys run

local COUNTERS = { 'seq', 'tokens', 'commits', 'live', 'asleep', 'scopes', 'wv', 'wa', 'wr', 'ia', 'idle' }

-- Reads the run's status and, with the same command, its counters.
function counters.status()
  local found = redis.call('HMGET', K.run, 'status', unpack(COUNTERS))
  call.counters = {}
  for i, name in ipairs(COUNTERS) do call.counters[name] = tonumber(found[i + 1] or 0) end
  return found[1]
end

function counters.get(name)
  if not call.counters then counters.status() end
  return call.counters[name]
end

function counters.add(name, n)
  local value = counters.get(name) + n
  call.counters[name], call.counted[name] = value, true
  return value
end

-- Adds the counters of another run, given as a flat list of fields.
function counters.add_all(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  for _, name in ipairs(COUNTERS) do
    if fields[name] then counters.add(name, tonumber(fields[name])) end
  end
end
