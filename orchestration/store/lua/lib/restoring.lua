-- Puts the content of a snapshot into a run that has none of it.
--!keys events scopes joins extra collect timers state outbox

local PUT, life = {}, nil             -- life: of dynamic keys, ms; nil if they stay

function PUT.state(c)                       -- f {field value …}
  redis.call('HSET', K.state, unpack(c.f))
end

function PUT.scope(c)                       -- an open fan-out: id, p parent path, j joins, rc, fired {step …}
  redis.call('HSET', K.scopes, c.id, cmsgpack.pack({ p = c.p, j = c.j, rc = c.rc }))
  for _, step in ipairs(c.fired) do redis.call('HSET', K.scopes, c.id .. '/' .. step, 1) end
  counters.add('scopes', 1)
  scopes.count(c.p, 1)
end

function PUT.list(c)                        -- n logical name, d {envelope …}: members, buffers, collected sets
  redis.call('RPUSH', call.extra[c.n], unpack(c.d))
  redis.call('SADD', K.extra, call.extra[c.n])
  if life then redis.call('PEXPIRE', call.extra[c.n], life) end
end

function PUT.sent(c)                        -- n logical name, d {identity …}
  redis.call('SADD', call.extra[c.n], unpack(c.d))
  redis.call('SADD', K.extra, call.extra[c.n])
  if life then redis.call('PEXPIRE', call.extra[c.n], life) end
end

local function limit(kind, buffer, at)      -- the instant until which a set must become complete
  if at then redis.call('ZADD', K.outbox, whole(at), kind .. '|' .. call.run .. '|' .. buffer) end
end

-- An entry of a multi-parameter join: sc scope, ky key of its set, s step, ty type, e, d, rc, at the set's limit.
function PUT.slot(c)
  local b = c.s .. '|' .. c.sc .. (c.ky or '')
  redis.call('HSET', K.events, c.e, c.d)
  join_buffers.push(c.sc, b, c.ty, cmsgpack.pack({ e = c.e, rc = c.rc }))
  limit('join', b, c.at)
end

function PUT.sets(c)                        -- f {buffer#, how many sets it has made …}
  redis.call('HSET', K.joins, unpack(c.f))
end

function PUT.child(c) children.adopt(c) end

function PUT.inbox(c)
  waiters.keep_event({ id = c.e, d = c.d, at = call.now })
end

-- Of collect_events: the answer to call n, or the owner of buffer n and its set's limit.
function PUT.call(c)
  redis.call('HSET', K.collect, c.n, c.a)
  limit('buffer', c.a, c.at)
end

function PUT.waiter(c)                      -- w work id, wt waiter id, d what it waits for, at its time-out
  local field = c.w .. '|' .. c.wt
  waiters.add(field, c.d)
  if c.at then redis.call('ZADD', K.timers, whole(c.at), 'waiter|' .. call.run .. '|' .. field) end
end

function PUT.item(c)                        -- a work item: r record, ev {id envelope …}, at when a delayed one is due
  local record = c.r
  for i = 1, #c.ev, 2 do redis.call('HSET', K.events, c.ev[i], c.ev[i + 1]) end
  call.live = call.live + 1
  scopes.count(record.scope, 1)
  if record.state == 'suspended' then
    records.put(record.work_id, record)
    if not record.awaited then counters.add('asleep', 1) end
  elseif record.state == 'delayed' then
    records.put(record.work_id, record)
    redis.call('ZADD', K.timers, whole(c.at), 'retry|' .. call.run .. '|' .. record.work_id)
  else
    record.state = 'queued'
    slots.push(record.step, records.encode(record))
  end
end

-- Puts {command …}; call `scopes.settle` afterwards, which settles the counts of fan-outs.
function restoring.put(commands, abandoned_after)
  life = abandoned_after
  for _, c in ipairs(commands) do PUT[c.o](c) end
end

-- The same for content that `restore` has put aside: names of keys that may exist, in x also with the prefix `aside:`.
-- Adds the counters from there and sets the timers.
function restoring.move(names)
  for _, name in ipairs(names) do
    local key = call.named['aside:' .. name]
    local own = call.extra[name]
    if redis.call('EXISTS', key) == 1 then
      redis.call('RENAME', key, own or K[name])
      redis.call('PERSIST', own or K[name])
      if own then redis.call('SADD', K.extra, own) end
    end
  end
  counters.add_all(redis.call('HGETALL', call.named['aside:run']))
  local timers = redis.call('ZRANGE', call.named['aside:timers'], 0, -1, 'WITHSCORES')
  for i = 1, #timers, 2 do redis.call('ZADD', K.timers, timers[i + 1], timers[i]) end
  local limits = redis.call('ZRANGE', call.named['aside:outbox'], 0, -1, 'WITHSCORES')
  for i = 1, #limits, 2 do redis.call('ZADD', K.outbox, limits[i + 1], limits[i]) end
end
