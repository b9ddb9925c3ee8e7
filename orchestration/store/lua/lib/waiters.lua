-- Waiters and the inbox, and whether a decision that was made on them still holds.
-- Counters: `wv` counts every change of both; `wa` (waiters added), `wr` (waiters removed) and `ia` (events added to
-- the inbox) count the changes of one known kind. Older releases do not update these three, so a change of theirs
-- counts as one of every kind. `wa + wr + ia = wv` also means that the index is complete.
-- Index: once there are more than `windex` waiters, `digest|field` of each waiter and `#kind` of each kind there ever
-- was; see `orchestration/model/waiters.py`. All scores are 0.
--!keys waiters waiting inbox

-- Digest and kind of a waiter, from its stored data; an older release has not stored them.
local function filed(data)
  return string.match(data, '^{"i":"(%x+)","k":"([^"]*)"')
end

local function index_waiter(field, data)
  local digest, kind = filed(data)
  if digest then redis.call('ZADD', K.waiting, 0, '#' .. kind, 0, digest .. '|' .. field) end
end

function waiters.add(field, data)
  redis.call('HSET', K.waiters, field, data)
  counters.add('wv', 1)
  if filed(data) then counters.add('wa', 1) end
  if redis.call('EXISTS', K.waiting) == 1 then
    index_waiter(field, data)
  elseif redis.call('HLEN', K.waiters) > A.windex then
    local all = redis.call('HGETALL', K.waiters)
    for i = 1, #all, 2 do index_waiter(all[i], all[i + 1]) end
  end
end

-- Removes a waiter; false if it is already removed.
function waiters.remove(field)
  local data = redis.call('HGET', K.waiters, field)
  if redis.call('HDEL', K.waiters, field) == 0 then return false end
  counters.add('wv', 1)
  counters.add('wr', 1)
  local digest = filed(data)
  if digest then redis.call('ZREM', K.waiting, digest .. '|' .. field) end
  return true
end

function waiters.keep_event(entry, max)
  local length = redis.call('RPUSH', K.inbox, cmsgpack.pack(entry))
  local kept = bounded.is_due(length, #entry.d, A.ibytes) and bounded.affordable(K.inbox, length, A.ibytes) or length
  kept = math.min(max or length, kept)
  if kept < length then redis.call('LTRIM', K.inbox, -kept, -1) end
  counters.add('wv', 1)
  counters.add('ia', 1)
end

-- Looks for an event in the inbox; sets `call.found_early` to its entry, decoded and as stored.
local function find_early(id)
  for start = 0, redis.call('LLEN', K.inbox) - 1, 50 do
    for _, raw in ipairs(redis.call('LRANGE', K.inbox, start, start + 49)) do
      local kept = cmsgpack.unpack(raw)
      if kept.id == id then
        call.found_early = { kept, raw }
        return true
      end
    end
  end
  return false
end

local function none_added(unknown)
  if A.wv == counters.get('wa') + unknown then return true end
  if not A.seen or unknown > 0 or redis.call('ZLEXCOUNT', K.waiting, '[#', '($') ~= A.seen.kinds then return false end
  for digest, n in pairs(A.seen.counts) do
    if redis.call('ZLEXCOUNT', K.waiting, '[' .. digest .. '|', '(' .. digest .. '}') ~= n then return false end
  end
  return true
end

-- Whether the decision would be another one now. wv: it depends on the waiters of this version; seen: only on these;
-- answers: the waiters that it answers; iv: it found no event in the inbox of this version; early: the event it found.
function waiters.outdated()
  local unknown = counters.get('wv') - counters.get('wa') - counters.get('wr') - counters.get('ia')
  if A.wv and not none_added(unknown) then return true end
  if A.iv and A.iv ~= counters.get('ia') + unknown then return true end
  for _, field in ipairs(A.answers or {}) do
    if redis.call('HEXISTS', K.waiters, field) == 0 then return true end
  end
  return A.early ~= nil and not find_early(A.early)
end
