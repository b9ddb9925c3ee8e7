-- One call of a function. Its state is one table, `call`, which `begin` creates for each call: nothing of a call is
-- left for the next one, even if it failed. Two shorthands: K.name is the key of that logical name, A.name an argument.

local call, A
local VERBS = {}                   -- name -> body of each function, for `replay`
local K                            -- made by the first call: Redis loads a library without `setmetatable`

-- The state of a call on a run; see `begin`.
local function call_on(run, keys, positions, clock, packed_commands, source)
  return {
    keys = keys, positions = positions,
    named = {}, extra = {},        -- logical name -> key, for the keys beyond the fixed ones; extra: those used so far
    packed_commands = packed_commands,   -- not in A, because the journal stores them unchanged
    clock = clock,
    now = clock[1] * 1000 + math.floor(clock[2] / 1000),
    run = run,
    -- what the call does, collected until its end
    source = source,               -- where its events come from: a work item, `start`, or `outside` the run
    dispatches = {},              -- work for which the caller has to send messages
    counted = {},                  -- names of the run's counters that have changed
    announced = {},                -- entries for the live channel
    delta = {},                    -- fan-out id -> change of its count
    live = 0,                      -- change of the run's count of work items
    inline = {},                   -- event id -> event, of those kept in the record of their only work item
    sent_by = {},                  -- event id -> where an event of the inbox came from; false: not known
    ended = false,                -- whether it has ended the run
    -- and, when set: counters {name = value}, led_to (see journal), leaving, reports and parted (see finish),
    -- to_start (child runs that the caller has to start), awaits_admission (the run waits for its turn, in its session
    -- or at its workflow's concurrency limit: its work queues up), carry_on, carried, carried_record (see carry),
    -- had_session, following, interrupted (see turns), args (see journal), again (`replay` repeats the call: nothing is
    -- published)
  }
end

local USED = { __index = function(extra, name)
  local key = call.named[name]
  extra[name] = key
  return key
end }

-- positions: logical name of each fixed key -> its place in KEYS; count: the number of fixed keys.
local function begin(positions, count, keys, argv)
  K = K or setmetatable({}, { __index = function(_, name) return call.keys[call.positions[name]] end })
  A = cmsgpack.unpack(argv[1])
  call = call_on(A.run, keys, positions, redis.call('TIME'), argv[2], A.w or 'start')
  if not A.x then return end
  for i, name in ipairs(A.x) do call.named[name] = keys[count + i] end
  setmetatable(call.extra, USED)
end

-- The body that the caller sent besides the arguments.
local function unpacked_body()
  return call.packed_commands and cmsgpack.unpack(call.packed_commands) or {}
end

local function whole(n)                  -- a number as Redis expects it: no exponent, no fraction
  return string.format('%.0f', n)
end
