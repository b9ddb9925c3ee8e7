-- Work records, the clock, and the answer being built. Included first by every script that touches a run.
-- A record is a msgpack map: s step, q queue, p priority, st state (ready running delayed suspended parked failed),
-- d dispatch number, da dispatched at, f failures, l losses charged, u level of suspicion, al claimed with no other suspect beside it, r resumptions, t token, o owner, c claim id,
-- sl slot, nw num_workers, to time limit (ms), e event id | ev event ids | sid+jn fan-out and member count, en event name, sc scope path,
-- rc recoveries (opaque), ed the event itself where it is small and nobody else refers to it, fa first attempt at, ca claimed at, le last error (opaque), la last failed at,
-- wd waiter id and delay of a suspension with a time-out, fb flushed batches, xs state writes and collect_events calls of this attempt, xc the latter -> 1, wr waiter id -> event id or false.

local A = cmsgpack.unpack(ARGV[1])
local BODY = ARGV[2] and cmsgpack.unpack(ARGV[2]) or {}   -- commands; apart, because the journal keeps them as they are
local X = {}                     -- logical name -> key, for the keys beyond the fixed ones
for i, name in ipairs(A.x or {}) do X[name] = KEYS[FIXED_KEYS + i] end

local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
local RUN = A.run
local dispatches = {}
local unbegun                    -- the run waits for a place of its workflow: its work queues up, none is dispatched

local function get(wid)
  local raw = redis.call('HGET', K.work, wid)
  return raw and cmsgpack.unpack(raw)
end

local function put(wid, record)
  redis.call('HSET', K.work, wid, cmsgpack.pack(record))
end

local function whole(n)           -- a number as Redis wants it: no exponent, no fraction
  return string.format('%.0f', n)
end
