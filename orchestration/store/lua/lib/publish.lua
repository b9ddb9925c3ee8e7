-- Events for readers: the log first, then the live channel. Stream and trace are numbered in one sequence.
-- Live message: msgpack of entries {seq, kind, data}; kind 'e' is a user event, 't' a step state change.
--!keys run stream trace

local function announce(kind, data)
  call.announced[#call.announced + 1] = { counters.add('seq', 1) - 1, kind, data }
  return whole(call.counters.seq - 1) .. '-1'
end

-- Writes the counters that the call has changed, and sends what it has published to the live channel.
function publish.save()
  local fields = {}
  for name in pairs(call.counted) do
    fields[#fields + 1] = name
    fields[#fields + 1] = whole(call.counters[name])
  end
  if #fields > 0 then redis.call('HSET', K.run, unpack(fields)) end
  if #call.announced > 0 then redis.call('PUBLISH', K.stream .. (A.channels or ''), cmsgpack.pack(call.announced)) end
  call.counted, call.announced = {}, {}
end

function publish.event(payload, step, attempt)
  if call.again then return counters.add('seq', 1) end
  local data = cmsgpack.pack({ payload, step or '', attempt or 0, call.now })
  redis.call('XADD', K.stream, 'MAXLEN', '~', A.smax, announce('e', data), 'd', data)
end

function publish.state(step, state, worker, input, output)
  if call.again then return counters.add('seq', 1) end
  local data = cmsgpack.pack({ step, state, worker, input or '', output or '' })
  redis.call('XADD', K.trace, 'MAXLEN', '~', A.smax, announce('t', data), 'd', data)
end
