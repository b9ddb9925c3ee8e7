-- The run's journal: what happened, what it led to, and all that is needed to replay it (replay.lua).
-- Fields of an entry: k kind, d what happened, c the body of the call, i its arguments and its instant. A commit (most
-- entries are commits) has no i: its content is in d.
--!keys journal

-- `call.led_to` is a list of groups { e event name, w {work id …}, s step, by where the event came from }.

-- Records that an event led to a work item: a new one, a fan-in that gathers it, or one that waited for it; or to
-- `outside`, as a question to people, or to the `stop` of the run. `by` is set where the event may come from the source
-- of another entry.
function journal.lead_to(work_id, step, event_name, by)
  call.led_to = call.led_to or {}
  local last = call.led_to[#call.led_to]
  if last and last.e == event_name and last.s == step and last.by == by then
    last.w[#last.w + 1] = work_id
  else
    call.led_to[#call.led_to + 1] = { e = event_name, w = { work_id }, s = step, by = by }
  end
end

-- `call.args` replaces the call's arguments (A) where these do not describe what was done, as in a call on another run.
-- The arguments below are left out: they are the same for every call, locate a key or a caller, or are passed checks.
local LEFT_OUT = { run = 1, x = 1, redispatch = 1, smax = 1, jmax = 1, jbytes = 1, ibytes = 1, keep = 1, full = 1,
  windex = 1, pack = 1, stuck = 1, t = 1, member = 1, wv = 1, iv = 1, seen = 1, answers = 1, batch = 1,
  publishes = 1, push = 1, plan = 1, handler = 1, before = 1, lease = 1, suspicion = 1, me = 1, lock = 1, expect = 1,
  reserve = 1, px = 1, channels = 1, skeep = 1, most = 1,
  cancelled = 1, aside = 1, parts = 1 }

local function used()
  local found = {}
  for name in pairs(call.extra) do found[#found + 1] = name end
  return #found > 0 and found or nil
end

local function arguments()
  local kept = { ['@'] = call.clock, x = used() }
  for name, value in pairs(call.args or A) do
    if not LEFT_OUT[name] then kept[name] = value end
  end
  return kept
end

-- Writes one entry, with all that this call has led to so far. With `A.full` it has what is needed to replay the call.
function journal.write(kind, data)
  if call.again then return end
  data.led_to = call.led_to
  local fields = { 'k', kind, 'd', cmsgpack.pack(data) }
  local size = #fields[4]
  if A.full then
    if call.packed_commands then
      fields[5], fields[6] = 'c', call.packed_commands
      size = size + #call.packed_commands
    end
    if kind ~= 'commit' then
      fields[#fields + 1] = 'i'
      fields[#fields + 1] = cmsgpack.pack(arguments())
      size = size + #fields[#fields]
    end
  end
  redis.call('XADD', K.journal, 'MAXLEN', '~', A.jmax, '*', unpack(fields))
  local length = kind ~= 'commit' and redis.call('XLEN', K.journal)
  if not bounded.is_due(length or counters.get('commits'), size, A.jbytes) then return end
  length = length or redis.call('XLEN', K.journal)
  local kept = bounded.affordable(K.journal, length, A.jbytes)
  if kept < length then redis.call('XTRIM', K.journal, 'MAXLEN', kept) end
end

-- Writes an entry that is only needed to replay the call.
function journal.note(kind, data)
  if A.full then journal.write(kind, data) end
end

-- Writes the entry of a commit. data: the caller's summary; claimed_at: of the attempt.
function journal.commit(data, claimed_at)
  data.ca, data.o, data.t = claimed_at, A.owner, tonumber(string.match(A.t, '^%d+'))
  if A.full then
    data.n, data.q, data.deny, data.early, data.x = call.now, A.carry, data.deny or A.deny, A.early, used()
  end
  journal.write('commit', data)
end
