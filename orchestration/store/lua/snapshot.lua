-- Everything a run needs to continue elsewhere, as of one instant. Reads only.
-- Args: run. The dynamic keys to read are given in x; `changed` if the run has others by now: ask again with those.
-- Answers: taken, then run, state, work, events, queue, scopes, joins, waiters, collect (flat hashes), inbox (list),
--   timers (member, instant, …), then per dynamic key its logical name and its content | changed | unknown.
-- One script, because all of it must be of one instant. It takes about a millisecond per thousand live work items.
--!flags no-writes
--!keys run work events queue scopes joins inbox waiters extra collect timers state

if redis.call('EXISTS', K.run) == 0 then return { 'unknown' } end
local given = {}
for name, key in pairs(call.extra) do given[key] = name end
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

local reply = { 'taken', redis.call('HGETALL', K.run), redis.call('HGETALL', K.state), work,
  redis.call('HGETALL', K.events), redis.call('HGETALL', K.queue), redis.call('HGETALL', K.scopes),
  redis.call('HGETALL', K.joins), waiting, redis.call('HGETALL', K.collect), redis.call('LRANGE', K.inbox, 0, -1),
  timers }
for _, key in pairs(call.extra) do
  reply[#reply + 1] = given[key]
  local kind = redis.call('TYPE', key).ok
  reply[#reply + 1] = (kind == 'list' and redis.call('LRANGE', key, 0, -1))
    or (kind == 'set' and redis.call('SMEMBERS', key)) or {}
end
return reply
