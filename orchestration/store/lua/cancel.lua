-- Cancel work items of a running run. A queued item leaves a blank in its queue. A running item loses its token, and
-- its process is notified.
-- Args: run, what the commands were decided on (see `waiters.outdated`), rest (a fan-out of which a join has all it
-- takes: nothing is cancelled if that is not known, because Redis was set back or all was cancelled), common limits.
-- Body: {{ w work id, d event for the stream, f its field in K.queue if it waits there, o the set of its owner (in x)
--   if it runs, r (how often it was resumed, if it waits), waits {waiter id …}, kids {child run …}, commands {to apply
--   in its place} } …}.
-- Answers: cancelled {dispatches, ended} n (how many: others have ended, or moved on so that the caller has to look
-- again) | changed | done (as above) | closed | unknown. Repeating it changes nothing more.
--!keys run queue timers stopped outbox

local status = counters.status()
if not status then return { 'unknown' } end
if status ~= 'running' then return { 'closed' } end
if A.rest and not call.again and not redis.call('ZSCORE', K.outbox, 'rest|' .. call.run .. '|' .. A.rest) then
  return { 'done' }
end
if waiters.outdated() then return { 'changed' } end

local function stop_running(item, record)
  local held = call.run .. '|' .. item.w .. '|' .. record.claim_id
  -- If it was claimed since the caller looked, its owner's set is not known here, and the owner's heartbeat clears it.
  if item.o and call.extra[item.o] then redis.call('SREM', call.extra[item.o], held) end
  if not call.again then redis.call('PUBLISH', K.stopped .. (A.channels or ''), held) end
end

local function wake_nothing(item)
  for _, waiter in ipairs(item.waits or {}) do
    local field = item.w .. '|' .. waiter
    if waiters.remove(field) then counters.add('asleep', -1) end
    redis.call('ZREM', K.timers, 'waiter|' .. call.run .. '|' .. field)
  end
end

-- Whether the caller has seen all that belongs to an item now: what it waits for, and the sets that it has collected.
local function is_as_seen(item, record)
  for _, name in ipairs(record.taken or {}) do
    if not call.named[name] then return false end
  end
  return record.state ~= 'suspended' or (record.resumptions or 0) == item.r
end

-- Ends an item that has left its step's queue; false if it has ended already.
local function cancel_live(item)
  local record = records.get(item.w)
  if not record or record.state == 'failed' or not is_as_seen(item, record) then return false end
  record.work_id = item.w
  redis.call('ZREM', K.timers, 'deadline|' .. call.run .. '|' .. item.w)
  if record.state == 'running' then
    stop_running(item, record)
  elseif record.state == 'ready' then
    unclaimed.drop(item.w, unclaimed.line_of(record))
  elseif record.state == 'delayed' then
    redis.call('ZREM', K.timers, 'retry|' .. call.run .. '|' .. item.w)
  elseif record.state == 'suspended' then
    wake_nothing(item)
  end
  publish.state(record.step, 'not_running', tostring(record.slot or 0), record.event_name)
  apply.done(record)
  return true
end

local function cancel_queued(item)
  local raw = redis.call('HGET', K.queue, item.f)
  local record = raw and records.decode(raw)
  if not record or record.work_id ~= item.w then return false end
  slots.blank(item.f)
  apply.done(record)
  return true
end

local commands, cancelled = {}, {}
for _, item in ipairs(unpacked_body()) do
  if cancel_live(item) or item.f and cancel_queued(item) then
    cancelled[#cancelled + 1] = item.w
    for _, child in ipairs(item.kids or {}) do children.give_up(child) end
    publish.event(item.d)
    for _, command in ipairs(item.commands) do commands[#commands + 1] = command end
  end
end
call.awaits_admission = redis.call('HGET', K.run, 'unbegun')
apply.commands(commands)
if #cancelled > 0 then journal.write('cancel', { w = cancelled }) end
local reply = apply.answer('cancelled')
reply[3] = whole(#cancelled)
return reply
