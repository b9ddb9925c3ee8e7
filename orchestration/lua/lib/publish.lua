-- Events for the outside: the log first, then the live channel. One sequence for both logs.
-- Live message: msgpack {seq, kind, data}; kind 'e' is a user event, 't' a step state change.

local function next_seq()
  return redis.call('HINCRBY', K.run, 'seq', 1) - 1
end

local function publish(payload, step, attempt)
  local seq = next_seq()
  local data = cmsgpack.pack({ payload, step or '', attempt or 0 })
  redis.call('XADD', K.stream, 'MAXLEN', '~', A.smax, whole(seq) .. '-1', 'd', data)
  redis.call('PUBLISH', K.stream, cmsgpack.pack({ seq, 'e', data }))
end

local function trace(step, state, worker, input, output)
  local seq = next_seq()
  local data = cmsgpack.pack({ step, state, worker, input or '', output or '' })
  redis.call('XADD', K.trace, 'MAXLEN', '~', A.smax, whole(seq) .. '-1', 'd', data)
  redis.call('PUBLISH', K.stream, cmsgpack.pack({ seq, 't', data }))
end

-- What happened, for the timeline and for rebuilding the run. `A.full` keeps the applied commands themselves.
local function journal(kind, data)
  if A.full and ARGV[2] then
    redis.call('XADD', K.journal, 'MAXLEN', '~', A.jmax, '*', 'k', kind, 'd', cmsgpack.pack(data), 'c', ARGV[2])
  else
    redis.call('XADD', K.journal, 'MAXLEN', '~', A.jmax, '*', 'k', kind, 'd', cmsgpack.pack(data))
  end
end
