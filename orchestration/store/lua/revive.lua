-- Take up an ended run again: its failed and interrupted work items anew, everything else as it was. A run of a
-- limited workflow has to get a place again first.
-- Args: run, timeout (ms or absent), common limits. Answers: revived {dispatches} | running | completed | unknown | nothing
-- | superseded (its handler has gone on to another run).
--!keys run work timers retire runs:running runs:completed runs:failed runs:cancelled runs:timed_out state handler
--!include call journal dispatch slots lifetimes apply begin_or_wait

local meta = redis.call('HMGET', K.run, 'status', 'limit', 'begun')
local status, limit, has_begun = meta[1], meta[2], meta[3]
if not status then return { 'unknown' } end
if status == 'running' or status == 'completed' then return { status } end
local at = redis.call('GET', K.handler)
if at and at ~= RUN then return { 'superseded' } end
local flat = redis.call('HGETALL', K.work)
if #flat == 0 and (has_begun or not limit) then return { 'nothing' } end
for _, key in ipairs(retained_keys()) do redis.call('PERSIST', key) end
for _, key in pairs(X) do redis.call('PERSIST', key) end
redis.call('PERSIST', K.state)
redis.call('PERSIST', K.handler)
redis.call('HSET', K.run, 'status', 'running')
redis.call('HDEL', K.run, 'ended_at', 'ending')
redis.call('ZREM', K['runs:' .. status], RUN)
redis.call('ZREM', K.retire, RUN)
redis.call('ZADD', K['runs:running'], NOW, RUN)
begin_or_wait(limit)
for i = 1, #flat, 2 do
  local record = cmsgpack.unpack(flat[i + 1])
  if record.st ~= 'suspended' then          -- parked work too: who took it up meanwhile found the run ended
    record.f, record.l, record.lt, record.u, record.al, record.late = nil, nil, nil, nil, nil, nil
    record.fa, record.le, record.la = nil, nil, nil
    if awaits_admission and record.sl then
      give_slot(record.s, record.sl, flat[i])
      record.sl = nil
    end
    if record.sl then dispatch(flat[i], record) else enqueue_or_dispatch(record) end
  elseif record.wd then                     -- its timer may have run out while the run had ended: it waits anew
    redis.call('ZADD', K.timers, whole(NOW + record.wd[2]), 'waiter|' .. RUN .. '|' .. flat[i] .. '|' .. record.wd[1])
  end
end
journal('revived', { status = status })
return answer('revived')
