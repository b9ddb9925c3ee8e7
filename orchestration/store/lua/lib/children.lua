-- Child runs, as recorded in their parent's shard. A child may be in another shard: what a change in one shard requires
-- of another one is recorded in `outbox` by the same script, and done by any process.
--   child|parent|child    start the child, or check whether it has ended
--   ended|child           report the child's end to its parent
--   parted|parent         the parent has ended: end its children
--   rest|run|fan-out      cancel the unfinished work of a fan-out whose join has all it takes
--   join|run|buffer       drop a set of events that did not become complete in time (lib/joins.lua)
--   buffer|run|buffer     the same, of collect_events (collect.lua)
--   parked|…              one of these two, of a run that has ended and may be retried (lib/set_limits.lua)
-- Fields of K.children: <child> { w work item that waits for it ('': none, the run was rewound to before it), wt the
-- name of its answer there, st status (held starting running reviving unwanted, or how it ended), pe what happens to it
-- when its parent ends, wf workflow, pl digest of its plan, sp what it is started with, kept until it has been started,
-- sb the same, kept until a look has found the child: Redis may be set back to before its start;
-- ke it is also another run's child }; plan|<digest> a plan as JSON; <work item>#<n> the n-th child that is held back
-- until another one has ended.
--!keys run children outbox events

local OPEN = { held = true, starting = true, running = true, reviving = true, unwanted = true }

function children.is_open(child) return OPEN[child.st] end

-- Whether its end is to be reported to its parent.
function children.is_wanted(child) return OPEN[child.st] and child.st ~= 'unwanted' end

-- Counts the open children that keep the run from completing.
local function stay(child, n)
  if child.pe ~= 'wait' then return end
  local staying = redis.call('HINCRBY', K.run, 'staying', n)
  call.none_stays = staying == 0
end

-- A step ends the run: returns whether this has to wait for children. If a step has already completed the run, a later
-- failure does not fail it. The work item stays, so that a join of its fan-out does not count it as ended.
function children.hold_end(status, event, record)
  local about = redis.call('HMGET', K.run, 'staying', 'last')
  if tonumber(about[1] or 0) == 0 or (status == 'failed' and not about[2]) then return false end
  redis.call('HSETNX', K.run, 'last', event)
  slots.release(record)
  if status == 'completed' then
    record.state = 'suspended'
    record.token, record.owner, record.claim_id, record.awaits = nil, nil, nil, nil
  end
  records.put(record.work_id, record)
  return true
end

-- The end that was held back, once there are no more children to wait for.
function children.held_end()
  local event = call.none_stays and redis.call('HGET', K.run, 'last')
  if event then redis.call('HDEL', K.run, 'staying', 'last') end
  return event
end

function children.get(id)
  local raw = redis.call('HGET', K.children, id)
  return raw and cmsgpack.unpack(raw)
end

function children.put(id, child)
  redis.call('HSET', K.children, id, cmsgpack.pack(child))
end

-- Checks a child at that instant, or earlier if that is already planned.
function children.look(id, at)
  redis.call('ZADD', K.outbox, 'LT', whole(at), 'child|' .. call.run .. '|' .. id)
end

-- Asks the caller to start a child; the outbox records it.
local function ask_to_start(id, child)
  child.st = 'starting'
  children.put(id, child)
  children.look(id, call.now + A.redispatch)
  call.to_start = call.to_start or {}
  call.to_start[#call.to_start + 1] = id
end

local function look_now(id)
  children.look(id, call.now)
  call.to_look = call.to_look or {}
  call.to_look[#call.to_look + 1] = id
end

-- Continues a child, however it has ended; if it has completed, its end is reported again.
function children.take_up(id, child)
  child.st = 'reviving'
  children.put(id, child)
  look_now(id)
end

-- c: id, wt, pe, wf, pl, sp as above, n (its number among those held back, if it is held back)
function children.spawn(c, record)
  local known = children.get(c.id)
  if known and known.w ~= '' then return end       -- by an earlier execution of the step
  redis.call('HINCRBY', K.run, 'children', 1)
  local child = { w = record.work_id, wt = c.wt, st = 'held', pe = c.pe, wf = c.wf, pl = c.pl, sp = c.sp }
  journal.lead_to(c.id, 'child', c.en)
  stay(child, 1)
  if known then                                   -- the run was rewound, and the id is not generated: the same child
    children.take_up(c.id, child)
  elseif c.n then
    children.put(c.id, child)
    redis.call('HSET', K.children, record.work_id .. '#' .. whole(c.n), c.id)
  else
    ask_to_start(c.id, child)
  end
end

-- A fork takes over a child of its origin: c has id, n, the fields above, and plan (the child's, as JSON).
function children.adopt(c)
  local child = { w = c.w, wt = c.wt, st = c.st, pe = c.pe, wf = c.wf, pl = c.pl, sp = c.sp, ke = c.ke }
  redis.call('HINCRBY', K.run, 'children', 1)
  stay(child, 1)
  children.put(c.id, child)
  if c.plan then redis.call('HSETNX', K.children, 'plan|' .. c.pl, c.plan) end
  if c.n then redis.call('HSET', K.children, c.w .. '#' .. whole(c.n), c.id) end
end

-- The fork has begun: its child c.id is started (go), or checked after `later` times the pause of a redispatch.
function children.look_again(c)
  if c.go then
    ask_to_start(c.id, children.get(c.id))
  else
    children.look(c.id, call.now + (c.later or 0) * A.redispatch)
  end
end

-- Publishes on the run's stream that a child was started.
function children.announce(id, child)
  local record = records.get(child.w)
  local about = { run_id = id, workflow = child.wf, step = record and record.step or '', on_parent_end = child.pe }
  publish.event('{"type":"umbel.ChildRunStarted","parents":["umbel.InternalDispatchEvent"],"value":'
    .. cjson.encode(about) .. '}')
end

local function resume(record)
  record.awaited, record.next_held = nil, nil
  record.resumptions = (record.resumptions or 0) + 1
  slots.enqueue_or_dispatch(record)
end

-- The committing work item waits until these children have ended; it occupies no slot and no process meanwhile.
function children.await(ids, record)
  slots.release(record)
  record.state = 'suspended'
  record.token, record.owner, record.claim_id, record.awaits = nil, nil, nil, nil
  record.awaited, record.next_held = 0, 1
  for _, id in ipairs(ids) do
    if OPEN[children.get(id).st] then record.awaited = record.awaited + 1 end
  end
  if record.awaited > 0 then records.put(record.work_id, record) else resume(record) end
end

local function start_next_held(record)
  local id, child
  repeat
    local field = record.work_id .. '#' .. whole(record.next_held or 1)
    id = redis.call('HGET', K.children, field)
    if not id then return end
    redis.call('HDEL', K.children, field)
    record.next_held = (record.next_held or 1) + 1
    child = children.get(id)
  until child.st == 'held'                        -- it has ended if Redis was set back to before the end of another
  ask_to_start(id, child)
end

-- A child has ended: its last event is the answer that its work item waits for. False if that is already known.
function children.ended(id, child, status, event)
  if not OPEN[child.st] then return false end
  -- It ended before `child_started` was recorded.
  if (child.st == 'starting' or child.st == 'held') and not A.unbegun then children.announce(id, child) end
  child.st, child.sp, child.sb = status, nil, nil
  children.put(id, child)
  stay(child, -1)
  local record, place = records.get(child.w), nil
  if not record then place, record = unpack(slots.in_line()[child.w] or {}) end   -- it may wait for a slot
  if not record then return true end
  redis.call('HSET', K.events, 'child|' .. id, event)
  record.work_id = child.w
  record.answers = record.answers or {}
  record.answers[child.wt] = 'child|' .. id
  if record.state ~= 'suspended' or not record.awaited then
    if place then slots.put_in_line(place, record) else records.put(child.w, record) end
    return true
  end
  journal.lead_to(child.w, record.step, child.wf, id)
  record.awaited = record.awaited - 1
  start_next_held(record)
  if record.awaited > 0 then records.put(child.w, record) else resume(record) end
  return true
end

-- A child is no longer wanted: end it.
local function give_up(id, child)
  if not OPEN[child.st] or child.pe == 'leave' then return end
  if child.st == 'held' then stay(child, -1) end
  child.st = child.st == 'held' and 'cancelled' or 'unwanted'
  if child.st == 'unwanted' then look_now(id) end
end

function children.give_up(id)
  local child = children.get(id)
  if not child then return end
  give_up(id, child)
  children.put(id, child)
end

-- Not about children, but done in the same way: a join has all it takes of a fan-out, and the rest is cancelled.
function children.cancel_rest(scope_id)
  redis.call('ZADD', K.outbox, whole(call.now + A.redispatch), 'rest|' .. call.run .. '|' .. scope_id)
  call.rests = call.rests or {}
  call.rests[#call.rests + 1] = scope_id
end

-- The run is retried: children that have not completed continue with it. Their former ends are no longer answers.
function children.revive()
  local flat, in_line, place = redis.call('HGETALL', K.children), nil, nil
  for i = 1, #flat, 2 do
    local child = not string.find(flat[i], '[#|]') and cmsgpack.unpack(flat[i + 1])
    local goes_on = child and child.st ~= 'completed' and child.st ~= 'held'
    local record = goes_on and records.get(child.w)
    if goes_on and not record then                -- it may wait for a slot, with its answers
      in_line = in_line or slots.in_line()
      place, record = unpack(in_line[child.w] or {})
    else
      place = nil
    end
    if record then
      if not OPEN[child.st] then
        if record.answers then record.answers[child.wt] = nil end
        redis.call('HDEL', K.events, 'child|' .. flat[i])
        if record.awaited then record.awaited = record.awaited + 1 end
        stay(child, 1)
      end
      -- The step would start another child, with an id of its own, if this one was started by the origin of the fork,
      -- or before the run was rewound.
      record.kept = record.kept or {}
      record.kept[child.wt] = flat[i]
      if place then slots.put_in_line(place, record) else records.put(child.w, record) end
      child.st = 'reviving'
      children.put(flat[i], child)
      children.look(flat[i], call.now)
    end
  end
end

-- Whether a child has changed since the caller looked.
function children.outdated(kept)
  for _, c in ipairs(kept) do
    local child = children.get(c.id)
    if not child or child.st ~= c.st then return true end
  end
  return false
end

-- The run is rewound. kept {{id, w, wt, pe, st (its present status), go (it was waited for at that point and has not
-- completed since), n (its number among those held back)} …} are children of work items that exist again. All others
-- are ended.
function children.go_back(kept)
  redis.call('HDEL', K.run, 'staying', 'last')
  local flat, by_id = redis.call('HGETALL', K.children), {}
  for _, c in ipairs(kept) do by_id[c.id] = c end
  for i = 1, #flat, 2 do
    if string.find(flat[i], '#') then redis.call('HDEL', K.children, flat[i]) end
  end
  for i = 1, #flat, 2 do
    local id, child = flat[i], not string.find(flat[i], '[#|]') and cmsgpack.unpack(flat[i + 1])
    local c = by_id[id]
    if c then
      child.w, child.wt, child.pe = c.w, c.wt, c.pe
      if c.go then stay(child, 1) end
      if c.n then redis.call('HSET', K.children, c.w .. '#' .. whole(c.n), id) end
      if c.go and child.st ~= 'held' then children.take_up(id, child) else children.put(id, child) end
    elseif child then
      child.w, child.wt = '', ''
      if child.pe == 'wait' then child.pe = 'cancel' end
      give_up(id, child)
      children.put(id, child)
    end
  end
end
