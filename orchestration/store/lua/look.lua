-- Find what is due in many shards, and take the turn to handle it. The shards' keys must be on one node: without a
-- cluster they may be all shards.
-- Args: n (shards), period (ms between two turns), everything (take the turn in any case), turn (when the caller's last
--   turn was; it keeps that unless another caller has had a turn since), batch and few (the maximum to answer of each
--   kind), newest (how many timers beyond a full batch), lease and redispatch (ms, as in `claim`), at {place in x ->
--   how many to skip there}.
-- x: 1 … 11n, the keys of the shards kind by kind: n times swept_at, then parked, leases, timers, unclaimed, retire,
--   releasing, awaiting_admission, outbox, lines, limits.
-- Answers: looked {now, swept_at (before; false if it is not the caller's turn), parked (whether anything is), owners
--   {{place in x, owner …} …}, due {{place in x, member …} …}}. Owners are those of all leases. What is due is answered
--   only on the caller's turn.
--
-- `swept_at` is the instant of the last turn. If it lies in the future, the clock was set back. Nothing waits until the
-- clock has caught up: all later instants are moved back by the same amount. A clock that is set forward cannot be
-- distinguished from an interval without any sweep.

local BACK = 1000                         -- ms; a smaller step back is waited out
local PARKED, LEASES, TIMERS, UNCLAIMED, RETIRE, RELEASING = 1, 2, 3, 4, 5, 6
local AWAITING_ADMISSION, OUTBOX, LINES, LIMITS = 7, 8, 9, 10
local n = A.n

local function set_back(place, by, least)
  local found = redis.call('ZRANGE', call.named[place], '(' .. whole(call.now), '+inf', 'BYSCORE', 'WITHSCORES')
  for i = 1, #found, 2 do
    redis.call('ZADD', call.named[place], whole(math.max(call.now + least, found[i + 1] - by)), found[i])
  end
end

local owners, due, parked = {}, {}, false

-- Whether there are keys of the kinds from one to another, in any shard.
local function exist(first, last) return redis.call('EXISTS', unpack(call.named, first * n + 1, last * n + n)) > 0 end

local function look(kind, into, ...)
  if not exist(kind, kind) then return end
  for place = kind * n + 1, kind * n + n do
    local found = redis.call('ZRANGE', call.named[place], ...)
    if #found > 0 then into[#into + 1] = { place, unpack(found) } end
  end
end

local function look_behind(kind, most, by_time)
  if not exist(kind, kind) then return end
  for place = kind * n + 1, kind * n + n do
    local at, found = A.at[place] or 0, nil
    if by_time then
      found = redis.call('ZRANGE', call.named[place], '-inf', call.now, 'BYSCORE', 'LIMIT', at, most)
    else
      found = redis.call('ZRANGE', call.named[place], at, at + most - 1)
    end
    if #found > 0 then due[#due + 1] = { place, unpack(found) } end
  end
end

-- If more timers are due than a batch, those that became due last come first: other runs' timers then do not wait for
-- thousands that were due at one instant.
local function look_at_newest_timers()
  for _, found in ipairs(due) do
    local place = found[1]
    if math.floor((place - 1) / n) == TIMERS and #found > A.batch then
      local newest = redis.call('ZRANGE', call.named[place], call.now, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, A.newest)
      local known = {}
      for _, timer in ipairs(newest) do known[timer] = true end
      for i = 2, #found do
        if not known[found[i]] then newest[#newest + 1] = found[i] end
      end
      for i, timer in ipairs(newest) do found[i + 1] = timer end
    end
  end
end

local swept = redis.call('MGET', unpack(call.named, 1, n))
local ago = call.now - tonumber(swept[1] or 0)
local is_turn = A.everything or ago >= A.period or ago < -BACK or (A.turn and tonumber(swept[1]) == A.turn)
local swept_at = is_turn and tonumber(swept[1] or 0) or false

if is_turn then
  local given = {}
  for i = 1, n do
    local by = tonumber(swept[i] or 0) - call.now
    if by > BACK then
      set_back(LEASES * n + i, by, A.lease)
      set_back(TIMERS * n + i, by, 0)
      set_back(UNCLAIMED * n + i, by, A.redispatch)
      set_back(AWAITING_ADMISSION * n + i, by, A.redispatch)
      set_back(OUTBOX * n + i, by, A.redispatch)
      set_back(LINES * n + i, by, A.redispatch)
    end
    given[2 * i - 1], given[2 * i] = call.named[i], whole(call.now)
  end
  redis.call('MSET', unpack(given))
end

if exist(PARKED, is_turn and LIMITS or LEASES) then
  parked = exist(PARKED, PARKED)
  look(LEASES, owners, 0, -1)
  if is_turn then
    look_behind(LEASES, A.batch, true)
    look_behind(TIMERS, A.batch, true)
    look_at_newest_timers()
    look(UNCLAIMED, due, '-inf', call.now, 'BYSCORE', 'LIMIT', 0, 1)
    look_behind(RETIRE, A.batch)
    look_behind(RELEASING, A.batch)
    look_behind(AWAITING_ADMISSION, A.few, true)
    look_behind(OUTBOX, A.batch, true)
    look_behind(LINES, A.few, true)
    for place = LIMITS * n + 1, exist(LIMITS, LIMITS) and LIMITS * n + n or 0 do
      local limited = redis.call('HKEYS', call.named[place])
      if #limited > 0 then due[#due + 1] = { place, unpack(limited) } end
    end
  end
end
return { 'looked', cmsgpack.pack({ call.now, swept_at, parked, owners, due }) }
