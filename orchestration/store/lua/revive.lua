-- Resume an ended run: its failed and interrupted work items start over, everything else is unchanged. A run of a
-- limited workflow must be admitted again first.
-- Args: run, timeout (ms or absent), common limits.
-- Answers: revived {dispatches} | running | completed | unknown | nothing | superseded (its session has another run).
--!keys run work timers retire runs:running runs:completed runs:failed runs:cancelled runs:timed_out handler

local meta = redis.call('HMGET', K.run, 'status', 'limit', 'begun', 'children')
local status, limit, has_begun = meta[1], meta[2], meta[3]
if not status then return { 'unknown' } end
if status == 'running' or status == 'completed' then return { status } end
local at = redis.call('GET', K.handler)
if at and at ~= call.run then return { 'superseded' } end
local flat = redis.call('HGETALL', K.work)
if #flat == 0 and (has_begun or not limit) then return { 'nothing' } end
for _, key in ipairs(lifetimes.retained()) do redis.call('PERSIST', key) end
for _, key in pairs(call.named) do redis.call('PERSIST', key) end
turns.persist()
redis.call('HSET', K.run, 'status', 'running')
redis.call('HDEL', K.run, 'ended_at', 'ending')
redis.call('ZREM', K['runs:' .. status], call.run)
redis.call('ZREM', K.retire, call.run)
redis.call('ZADD', K['runs:running'], call.now, call.run)
if meta[4] then
  children.revive()
  flat = redis.call('HGETALL', K.work)
end
beginning.begin_or_wait(limit, A.timeout)
local packed, ids = {}, {}                      -- sorted, so that a replay does the same
for i = 1, #flat, 2 do ids[#ids + 1], packed[flat[i]] = flat[i], flat[i + 1] end
table.sort(ids)
for _, wid in ipairs(ids) do
  local record = records.decode(packed[wid])
  if record.state ~= 'suspended' then         -- parked work too: a worker may have tried to unpark it after the end
    if record.state == 'delayed' then redis.call('ZREM', K.timers, 'retry|' .. call.run .. '|' .. wid) end
    record.failures, record.losses, record.charged_losses = nil, nil, nil
    record.suspicion, record.alone, record.late = nil, nil, nil
    record.first_attempt_at, record.last_error, record.last_failed_at = nil, nil, nil
    if call.awaits_admission and record.slot then
      slots.give(record.step, record.slot, wid)
      record.slot = nil
    end
    if record.slot then dispatch.work(wid, record) else slots.enqueue_or_dispatch(record) end
  elseif record.awaits then                     -- its timer may have run out after the run's end: it starts again
    local waiter = wid .. '|' .. record.awaits[1]
    timing.set_timer(record.awaits[2], 'waiter|' .. call.run .. '|' .. waiter)
  end
end
set_limits.revive()
journal.write('revived', { status = status })
return apply.answer('revived')
