-- The run's counters, and events for readers: the log first, then the live channel. One sequence for both logs.
-- Counters are read once per script and written once, by `save`: a script that changes one or publishes anything calls
-- it at its end. Live message: msgpack of entries {seq, kind, data}; kind 'e' is a user event, 't' a step state change.
--!keys run stream trace
--!include call

local COUNTERS = { 'seq', 'tokens', 'commits', 'live', 'asleep', 'scopes', 'wv', 'wa', 'wr', 'ia', 'idle' }
local counters                   -- name -> value, once they are read
local counted = {}               -- names of those that have changed
local announced = {}             -- entries for the live channel

-- The run's status, and with the same call its counters.
local function run_status()
  local found = redis.call('HMGET', K.run, 'status', unpack(COUNTERS))
  counters = {}
  for i, name in ipairs(COUNTERS) do counters[name] = tonumber(found[i + 1] or 0) end
  return found[1]
end

local function counter(name)
  if not counters then run_status() end
  return counters[name]
end

local function add(name, n)
  local value = counter(name) + n
  counters[name], counted[name] = value, true
  return value
end

local function announce(kind, data)
  announced[#announced + 1] = { add('seq', 1) - 1, kind, data }
  return whole(counters.seq - 1) .. '-1'
end

local function save()
  local fields = {}
  for name in pairs(counted) do
    fields[#fields + 1] = name
    fields[#fields + 1] = whole(counters[name])
  end
  if #fields > 0 then redis.call('HSET', K.run, unpack(fields)) end
  if #announced > 0 then redis.call('PUBLISH', K.stream, cmsgpack.pack(announced)) end
  counted, announced = {}, {}
end

local function publish(payload, step, attempt)
  local data = cmsgpack.pack({ payload, step or '', attempt or 0 })
  redis.call('XADD', K.stream, 'MAXLEN', '~', A.smax, announce('e', data), 'd', data)
end

local function trace(step, state, worker, input, output)
  local data = cmsgpack.pack({ step, state, worker, input or '', output or '' })
  redis.call('XADD', K.trace, 'MAXLEN', '~', A.smax, announce('t', data), 'd', data)
end
