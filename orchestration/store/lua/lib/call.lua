-- What a script was called with, and the time. Every part that needs arguments or the clock includes this one.

local A = cmsgpack.unpack(ARGV[1])
local BODY = ARGV[2] and cmsgpack.unpack(ARGV[2]) or {}   -- commands; apart, because the journal keeps them as they are
local X = {}                     -- logical name -> key, for the keys beyond the fixed ones
for i, name in ipairs(A.x or {}) do X[name] = KEYS[FIXED_KEYS + i] end

local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
local RUN = A.run

local function whole(n)           -- a number as Redis expects it: no exponent, no fraction
  return string.format('%.0f', n)
end
