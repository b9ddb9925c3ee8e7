-- Applies what Python decided: one function per command, in order. All checks were made before.
--!keys work events slots free journal extra collect timers
--!include call record journal publish waiters dispatch events slots scopes joins finish

local ended = false

local inline = {}                          -- event id -> event, of those kept in the record of their only work item

local function drop_events_of(record)
  if record.event_id and not record.event then drop_event(record.event_id) end
  for _, id in ipairs(record.event_ids or {}) do drop_event(id) end
  for _, id in pairs(record.answers or {}) do
    if id then drop_event(id) end
  end
end

local sent_by = {}                         -- event id -> where an event of the inbox came from; false: not known

local APPLY = {}

function APPLY.keep(c)                     -- an event that work items will refer to
  if c.one and #c.d <= 2048 then
    inline[c.e] = c.d
    return
  end
  redis.call('HSET', K.events, c.e, c.d)
  if c.uses > 1 then redis.call('HSET', K.events, '#' .. c.e, c.uses) end
end

function APPLY.deliver(c)
  local record = { version = RECORD_VERSION, work_id = c.w, step = c.s, num_workers = c.nw, queue = c.q, priority = c.p,
    time_limit = c.to, event_id = c.e, event = inline[c.e], event_name = c.en, scope = c.sc, recoveries = c.rc }
  lead_to(c.w, c.s, c.en)
  deliver(record)
end

APPLY.open = open_scope
APPLY.absorb = absorb
APPLY.join = join

function APPLY.splice(c)                    -- a staged segment becomes work: one entry in the FIFO of its step
  live = live + c.n
  count(c.sc, c.n)
  queue_push(c.s, cmsgpack.pack({ seg = c.seg, n = c.n, i = 0 }))
  APPLY.fill(c)
end

function APPLY.fill(c)                      -- the free slots of a step go to what waits in its FIFO
  if awaits_admission then return end
  local in_use = tonumber(redis.call('HGET', K.slots, c.s) or 0)
                 - redis.call('ZLEXCOUNT', K.free, '[' .. c.s .. '/', '(' .. c.s .. '0')
  for _ = in_use + 1, c.nw do
    local record = queue_pop(c.s)
    if not record then break end
    record.slot = take_slot(record.step, record.num_workers, record.work_id)
    dispatch(record.work_id, record)
  end
end

function APPLY.publish(c)                   -- ask: its name, if it is a question to people
  if c.ask then lead_to('outside', '', c.ask) end
  publish(c.d, c.s, c.a)
end

function APPLY.trace(c)
  local worker = c.k
  if c.st == 'unhandled' then               -- no step accepts the event: is any step active at all?
    if counter('live') + live == counter('asleep') then worker = 'idle' end
  end
  trace(c.s, c.st, worker, c.i, c.out)
end

function APPLY.inbox(c)                     -- no step accepts it yet: a waiter registered later looks here first
  add_to_inbox({ id = c.e, d = c.d, at = NOW, by = source }, c.max)
end

function APPLY.take_inbox(c)                -- an inbox event answers a waiter: `outdated` has found it
  sent_by[c.e] = found_early[1].by or false
  redis.call('LREM', K.inbox, 1, found_early[2])
end

function APPLY.resume(c)                    -- a waiter is answered (e) or has timed out (no e)
  local field = c.w .. '|' .. c.wt
  if not remove_waiter(field) then
    if c.e then drop_event(c.e) end        -- it was answered before; this use of the event ends here
    return
  end
  redis.call('ZREM', K.timers, 'waiter|' .. RUN .. '|' .. field)
  local record = get(c.w)
  record.answers = record.answers or {}
  record.answers[c.wt] = c.e or false
  record.resumptions = (record.resumptions or 0) + 1
  add('asleep', -1)
  local by = sent_by[c.e]
  if c.e and by ~= false then lead_to(c.w, record.step, c.en, by or source) end
  enqueue_or_dispatch(record)
end

function APPLY.finish(c)
  ended = true
  lead_to('stop', '', c.en)
  finish(c.status, c.d)
end

-- The commands below concern the committing work item itself; `record` is its record.

function APPLY.done(_, record)
  drop_events_of(record)
  redis.call('HDEL', K.work, record.work_id)
  release_slot(record)
  if record.scope_id then
    local key = X['members:' .. record.scope_id .. ':' .. record.step]
    redis.call('UNLINK', key)
    redis.call('SREM', K.extra, key)
  end
  if record.sent_early then
    redis.call('UNLINK', X['sent:' .. record.work_id])
    redis.call('SREM', K.extra, X['sent:' .. record.work_id])
  end
  for _, call in ipairs(record.calls or {}) do redis.call('HDEL', K.collect, call) end
  for _, name in ipairs(record.taken or {}) do
    redis.call('UNLINK', X[name])
    redis.call('SREM', K.extra, X[name])
  end
  live = live - 1
  count(record.scope, -1)
end

function APPLY.retry(c, record)
  record.failures = (record.failures or 0) + 1
  record.last_error, record.last_failed_at, record.late = c.error, NOW, nil
  record.token, record.owner, record.claim_id = nil, nil, nil
  if c.delay <= 0 then
    dispatch(record.work_id, record)
  else
    release_slot(record)
    record.state = 'delayed'
    put(record.work_id, record)
    redis.call('ZADD', K.timers, whole(NOW + c.delay), 'retry|' .. RUN .. '|' .. record.work_id)
  end
end

function APPLY.suspend(c, record)             -- wt waiter id, d what it waits for, delay until its time-out
  release_slot(record)
  record.state = 'suspended'
  record.token, record.owner, record.claim_id, record.awaits = nil, nil, nil, c.delay and { c.wt, c.delay }
  put(record.work_id, record)
  local field = record.work_id .. '|' .. c.wt
  add_waiter(field, c.d)
  add('asleep', 1)
  if c.delay then redis.call('ZADD', K.timers, whole(NOW + c.delay), 'waiter|' .. RUN .. '|' .. field) end
end

function APPLY.fail(c, record)              -- the run fails on it: the item stays, so that `umbel retry` can revive it
  record.failures = (record.failures or 0) + 1
  record.state, record.last_error, record.last_failed_at = 'failed', c.error, NOW
  record.token, record.owner, record.claim_id = nil, nil, nil
  put(record.work_id, record)
end

-- Applies all commands; returns nothing. `record` is the committing record or nil.
local function apply(commands, record)
  led_to = led_to or {}
  for _, c in ipairs(commands) do
    APPLY[c.o](c, record)
    if ended then return end
  end
  settle()
  local total, asleep = counter('live'), counter('asleep')
  if total == 0 and counter('scopes') > 0 and A.stuck then
    finish('failed', A.stuck)               -- a fan-out is open and no work is left that could close it
    ended = true
  elseif total == asleep then
    if counter('idle') ~= 1 then
      add('idle', 1)
      trace('', 'idle', '')
    end
  elseif counter('idle') == 1 then
    add('idle', -1)
  end
end

local function answer(status, extra)
  save()
  if ended then redis.call('PEXPIRE', K.journal, A.keep) end   -- the last entry may have created it
  local body = extra or {}
  body.dispatches = dispatches
  body.ended = ended
  body.leaving = leaving
  return { status, cmsgpack.pack(body) }
end
