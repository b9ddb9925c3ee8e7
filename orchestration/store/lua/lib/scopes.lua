-- Fan-outs. A scope counts the work items at its level plus the scopes opened below it; at zero it closes, and each
-- of its joins that has not fired yet fires with the events that have arrived. Counts are collected in `delta` and
-- settled once, at the end of the script, so a scope never looks empty between an item and its successor.
-- Scope path: 'id:opener/id:opener', outermost first. Fields of K.scopes: <id> meta, <id>:n count, <id>/<step> fired,
-- <id>:j the buffers of multi-parameter joins inside it.
--!keys scopes extra

-- The id of the fan-out that a scope path ends in, if any.
function scopes.innermost(path)
  local last = string.match(path, '([^/]+)$')
  return last and string.match(last, '^([^:]+)')
end

function scopes.count(path, n)
  local id = path ~= '' and scopes.innermost(path)
  if id then call.delta[id] = (call.delta[id] or 0) + n end
end

function scopes.deliver(record)
  call.live = call.live + 1
  scopes.count(record.scope, 1)
  slots.enqueue_or_dispatch(record)
end

local function fire(id, meta, join, size)
  redis.call('HSET', K.scopes, id .. '/' .. join.s, 1)
  local record = { version = records.VERSION, work_id = join.w, step = join.s, num_workers = join.nw, queue = join.q,
    priority = join.p, time_limit = join.to, event_name = 'umbel.CollectionReleaseEvent', scope_id = id, members = size,
    scope = meta.p, recoveries = meta.rc }
  scopes.deliver(record)
  if join.rest and size == join.take then children.cancel_rest(id) end
end

function scopes.open(c)
  redis.call('HSET', K.scopes, c.id, cmsgpack.pack({ p = c.p, j = c.j, rc = c.rc }))
  counters.add('scopes', 1)
  call.delta[c.id] = call.delta[c.id] or 0
  scopes.count(c.p, 1)
  for _, join in ipairs(c.j) do               -- members staged ahead of the commit may already complete a Take(n)
    if join.take and redis.call('LLEN', call.extra['members:' .. c.id .. ':' .. join.s]) >= join.take then
      fire(c.id, { p = c.p, rc = c.rc }, join, join.take)
    end
  end
end

-- An event arrives at a join of a fan-out. c: id scope, s step, d envelope, en event name.
function scopes.absorb(c)
  local raw = redis.call('HGET', K.scopes, c.id)
  if not raw or redis.call('HEXISTS', K.scopes, c.id .. '/' .. c.s) == 1 then return end
  local key = call.extra['members:' .. c.id .. ':' .. c.s]
  local size = redis.call('RPUSH', key, c.d)
  if size == 1 then redis.call('SADD', K.extra, key) end
  local meta = cmsgpack.unpack(raw)
  for _, join in ipairs(meta.j) do
    if join.s == c.s then
      journal.lead_to(join.w, c.s, c.en)
      if join.take and size >= join.take then fire(c.id, meta, join, join.take) end
    end
  end
end

local function close(id)
  local meta = cmsgpack.unpack(redis.call('HGET', K.scopes, id))
  for _, join in ipairs(meta.j) do
    if redis.call('HEXISTS', K.scopes, id .. '/' .. join.s) == 0 then
      local key = call.extra['members:' .. id .. ':' .. join.s]
      local size = redis.call('LLEN', key)
      if size == 0 then journal.lead_to(join.w, join.s, '') end
      fire(id, meta, join, size)
    end
    redis.call('HDEL', K.scopes, id .. '/' .. join.s)
  end
  join_buffers.forget(id)
  redis.call('HDEL', K.scopes, id, id .. ':n')
  counters.add('scopes', -1)
  scopes.count(meta.p, -1)
end

function scopes.settle()
  local id = next(call.delta)
  while id do
    local n = call.delta[id]
    call.delta[id] = nil
    if redis.call('HINCRBY', K.scopes, id .. ':n', n) <= 0 then close(id) end
    id = next(call.delta)
  end
  if call.live ~= 0 then counters.add('live', call.live) end
  call.live = 0
end
