-- Everything a run needs to continue elsewhere, as of one instant. Reads only.
-- Args: run, x (the dynamic keys to read; `changed` if the run has others by now: call again with those).
-- Answers: taken, id of the last entry of the journal (or ''), timers (member, instant, …), then for each key its
--   logical name and its content (hashes and sorted sets flat) | changed | unknown.
-- One script, because it must be atomic. It takes about a millisecond per thousand live work items.
--!flags no-writes
--!keys run work events slots free queue scopes joins inbox waiters waiting extra received collect children
--!keys timers state versions outbox

if redis.call('EXISTS', K.run) == 0 then return { 'unknown' } end
local given = {}
for name, key in pairs(call.named) do given[key] = name end
for _, key in ipairs(redis.call('SMEMBERS', K.extra)) do
  if not given[key] then return { 'changed' } end
end

local timers = {}
local function due(timer)
  local at = redis.call('ZSCORE', K.timers, timer)
  if at then
    timers[#timers + 1] = timer
    timers[#timers + 1] = at
  end
end
local work = redis.call('HGETALL', K.work)
for i = 1, #work, 2 do
  local record = records.decode(work[i + 1])
  if record.state == 'delayed' then due('retry|' .. call.run .. '|' .. work[i]) end
end
local waiting = redis.call('HGETALL', K.waiters)
for i = 1, #waiting, 2 do due('waiter|' .. call.run .. '|' .. waiting[i]) end
due('timeout|' .. call.run)
set_limits.each(function(member)
  local at = redis.call('ZSCORE', K.outbox, member)
  if at then
    timers[#timers + 1] = member
    timers[#timers + 1] = at
  end
end)

local _, _, last = removed.entries()
local version = redis.call('HGET', K.versions, 'v')
local reply = { 'taken', last, timers, 'run', redis.call('HGETALL', K.run), 'work', work,
  'events', redis.call('HGETALL', K.events), 'slots', redis.call('HGETALL', K.slots),
  'free', redis.call('ZRANGE', K.free, 0, -1, 'WITHSCORES'), 'queue', redis.call('HGETALL', K.queue),
  'scopes', redis.call('HGETALL', K.scopes), 'joins', redis.call('HGETALL', K.joins),
  'inbox', redis.call('LRANGE', K.inbox, 0, -1), 'waiters', waiting,
  'waiting', redis.call('ZRANGE', K.waiting, 0, -1, 'WITHSCORES'),
  'received', redis.call('ZRANGE', K.received, 0, -1, 'WITHSCORES'),
  'collect', redis.call('HGETALL', K.collect), 'children', redis.call('HGETALL', K.children),
   'state', redis.call('HGETALL', K.state), 'versions', version and { 'v', version } or {} }
for _, key in pairs(call.named) do
  reply[#reply + 1] = given[key]
  local kind = redis.call('TYPE', key).ok
  reply[#reply + 1] = (kind == 'list' and redis.call('LRANGE', key, 0, -1))
    or (kind == 'set' and redis.call('SMEMBERS', key)) or {}
end
return reply
