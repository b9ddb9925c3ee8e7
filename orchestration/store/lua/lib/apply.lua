-- Applies what Python decided: one function per command, in order. All checks were made before.
--!keys work events slots free journal inbox extra collect timers children

local function drop_events_of(record)
  if record.event_id and not record.event then events.drop(record.event_id) end
  for _, id in ipairs(record.event_ids or {}) do events.drop(id) end
  for _, id in pairs(record.answers or {}) do
    if id then events.drop(id) end
  end
end

-- A work item has ended: delete what belongs to it.
function apply.done(record)
  drop_events_of(record)
  redis.call('HDEL', K.work, record.work_id)
  slots.release(record)
  if record.scope_id then
    local key = call.extra['members:' .. record.scope_id .. ':' .. record.step]
    redis.call('UNLINK', key)
    redis.call('SREM', K.extra, key)
  end
  if record.sent_early then
    redis.call('UNLINK', call.extra['sent:' .. record.work_id])
    redis.call('SREM', K.extra, call.extra['sent:' .. record.work_id])
  end
  for _, made in ipairs(record.calls or {}) do redis.call('HDEL', K.collect, made) end
  for _, name in ipairs(record.taken or {}) do
    redis.call('UNLINK', call.extra[name])
    redis.call('SREM', K.extra, call.extra[name])
  end
  call.live = call.live - 1
  scopes.count(record.scope, -1)
end

local APPLY = {}

function APPLY.keep(c)                     -- an event that work items will refer to
  if c.one and #c.d <= 2048 then
    call.inline[c.e] = c.d
    return
  end
  redis.call('HSET', K.events, c.e, c.d)
  if c.uses > 1 then redis.call('HSET', K.events, '#' .. c.e, c.uses) end
end

function APPLY.deliver(c)
  local record = { version = records.VERSION, work_id = c.w, step = c.s, num_workers = c.nw, queue = c.q,
    priority = c.p, time_limit = c.to, event_id = c.e, event_ids = c.es, event_name = c.en, scope = c.sc,
    recoveries = c.rc }
  if c.e then record.event = call.inline[c.e] end
  journal.lead_to(c.w, c.s, c.en)
  scopes.deliver(record)
end

function APPLY.open(c) scopes.open(c) end
function APPLY.absorb(c) scopes.absorb(c) end
function APPLY.join(c) joins.add(c) end

function APPLY.splice(c)                    -- a staged segment becomes work: one entry in the FIFO of its step
  call.live = call.live + c.n
  scopes.count(c.sc, c.n)
  slots.push(c.s, cmsgpack.pack({ seg = c.seg, n = c.n, i = 0 }))
  APPLY.fill(c)
end

function APPLY.fill(c)                     -- the free slots of a step go to work in its FIFO
  if call.awaits_admission then return end
  local in_use = tonumber(redis.call('HGET', K.slots, c.s) or 0)
                 - redis.call('ZLEXCOUNT', K.free, '[' .. c.s .. '/', '(' .. c.s .. '0')
  for _ = in_use + 1, c.nw do
    local record = slots.pop(c.s)
    if not record then break end
    record.slot = slots.take(record.step, record.num_workers, record.work_id)
    dispatch.work(record.work_id, record)
  end
end

function APPLY.publish(c)                   -- ask: its name, if it is a question to people
  if c.ask then journal.lead_to('outside', '', c.ask) end
  publish.event(c.d, c.s, c.a)
end

function APPLY.trace(c)
  local worker = c.k
  if c.st == 'unhandled' then              -- no step accepts the event: is any step active?
    if counters.get('live') + call.live == counters.get('asleep') then worker = 'idle' end
  end
  publish.state(c.s, c.st, worker, c.i, c.out)
end

function APPLY.inbox(c)                    -- no step accepts it yet: a waiter that is added later looks here first
  waiters.keep_event({ id = c.e, d = c.d, at = call.now, by = call.source }, c.max)
end

function APPLY.take_inbox(c)               -- an inbox event, found by `waiters.outdated`, answers a waiter
  call.sent_by[c.e] = call.found_early[1].by or false
  redis.call('LREM', K.inbox, 1, call.found_early[2])
end

function APPLY.resume(c)                    -- a waiter is answered (e) or has timed out (no e)
  local field = c.w .. '|' .. c.wt
  if not waiters.remove(field) then
    if c.e then events.drop(c.e) end        -- it was answered before; this use of the event ends here
    return
  end
  redis.call('ZREM', K.timers, 'waiter|' .. call.run .. '|' .. field)
  local record = records.get(c.w)
  record.answers = record.answers or {}
  record.answers[c.wt] = c.e or false
  record.resumptions = (record.resumptions or 0) + 1
  counters.add('asleep', -1)
  local by = call.sent_by[c.e]
  if c.e and by ~= false then journal.lead_to(c.w, record.step, c.en, by or call.source) end
  slots.enqueue_or_dispatch(record)
end

function APPLY.finish(c, record)
  journal.lead_to('stop', '', c.en)
  if record and children.hold_end(c.status, c.d, record) then return end
  call.ended = true
  finish.run(c.status, c.d)
end

-- The commands below concern the committing work item itself; `record` is its record.

function APPLY.done(_, record) apply.done(record) end

function APPLY.retry(c, record)
  record.failures = (record.failures or 0) + 1
  record.last_error, record.last_failed_at, record.late = c.error, call.now, nil
  record.token, record.owner, record.claim_id = nil, nil, nil
  if c.delay <= 0 then
    dispatch.work(record.work_id, record)
  else
    slots.release(record)
    record.state = 'delayed'
    records.put(record.work_id, record)
    timing.set_timer(c.delay, 'retry|' .. call.run .. '|' .. record.work_id)
  end
end

function APPLY.suspend(c, record)             -- wt waiter id, d what it waits for, delay until its time-out
  slots.release(record)
  record.state = 'suspended'
  record.token, record.owner, record.claim_id, record.awaits = nil, nil, nil, c.delay and { c.wt, c.delay }
  records.put(record.work_id, record)
  local field = record.work_id .. '|' .. c.wt
  waiters.add(field, c.d)
  counters.add('asleep', 1)
  if c.delay then timing.set_timer(c.delay, 'waiter|' .. call.run .. '|' .. field) end
end

function APPLY.child_plan(c) redis.call('HSETNX', K.children, 'plan|' .. c.pl, c.d) end
function APPLY.spawn(c, record) children.spawn(c, record) end
function APPLY.look(c) children.look_again(c) end
function APPLY.await(c, record) children.await(c.ids, record) end

function APPLY.fail(c, record)             -- the run fails with it: the item stays, so that `umbel retry` can revive it
  record.failures = (record.failures or 0) + 1
  record.state, record.last_error, record.last_failed_at = 'failed', c.error, call.now
  record.token, record.owner, record.claim_id = nil, nil, nil
  records.put(record.work_id, record)
end

-- Applies all commands; returns nothing. `record` is the committing record or nil.
function apply.commands(commands, record)
  call.led_to = call.led_to or {}
  for _, c in ipairs(commands) do
    APPLY[c.o](c, record)
    if call.ended then return end
  end
  scopes.settle()
  local held_end = children.held_end()
  if held_end then
    call.ended = true
    finish.run('completed', held_end)
    return
  end
  local total, asleep = counters.get('live'), counters.get('asleep')
  if total == 0 and counters.get('scopes') > 0 and A.stuck then
    finish.run('failed', A.stuck)               -- a fan-out is open and no work is left that could close it
    call.ended = true
  elseif total == asleep then
    if counters.get('idle') ~= 1 then
      counters.add('idle', 1)
      publish.state('', 'idle', '')
    end
  elseif counters.get('idle') == 1 then
    counters.add('idle', -1)
  end
end

-- Whether the caller has nothing to do after this call except the work that it continues with.
function apply.asks_nothing()
  return #call.dispatches == 0 and not (call.ended or call.leaving or call.to_start or call.to_look or call.rests
    or call.reports or call.parted or call.following or call.interrupted)
end

function apply.answer(status, extra)
  publish.save()
  if call.ended then redis.call('PEXPIRE', K.journal, call.keep) end   -- the last entry may have created it
  local body = extra or {}
  body.dispatches = call.dispatches
  body.ended = call.ended
  body.leaving = call.leaving
  body.starts, body.looks, body.rests = call.to_start, call.to_look, call.rests
  body.reports, body.parted = call.reports, call.parted
  if call.had_session and not call.again then turns.advance() end
  body.following, body.interrupted = call.following, call.interrupted
  return { status, cmsgpack.pack(body) }
end
