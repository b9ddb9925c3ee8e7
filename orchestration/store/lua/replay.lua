-- Replay what a journal has recorded, on keys that stand for those of the run, its shard and its state: calls the same
-- functions with the original arguments and instants. Nothing is published, dispatched or journaled, and nothing else
-- uses the keys.
-- Args: run, first (how many entries were replayed before), x (logical names of the dynamic keys that the entries
-- touch), names (the same), life (ms after which the keys expire), details (see DETAILS), and the common limits.
-- Body: entries {verb, args, body, clock {s, us}}. Answers: replayed {what each function has answered, or its error …};
-- with `details` {that, and what DETAILS returns} each.
-- Repeating a call changes nothing.
--!keys every:*

local done = redis.call('HMGET', K.counters, 'replayed', 'answered')
if tonumber(done[1] or 0) > A.first then return { 'replayed', done[2] } end

local common, entries, life, first, answered = A, unpacked_body(), A.life, A.first, {}
local with_details = A.details
common.full, common.first, common.details = nil, nil, nil

-- Sets the arguments so that checks against anything outside the run pass, as they did originally.
local READY = {}

function READY.claim(args)
  args.d, args.suspicion, args.lease = 0, math.huge, 1
end

function READY.commit(args, record)
  args.batches, args.wf, args.grace, args.entry = record.batches or 0, '', 0, {}
end

function READY.flush(args, record)
  args.batch, args.publishes = (record.batches or 0) + 1, {}
  for n = 1, args.p or 0 do args.publishes[n] = { d = '', a = 0 } end
end

function READY.start(args)
  args.plan, args.cancelled = '', ''
end

function READY.state_write(args, _, body)
  args.me, args.id = '', call.clock[1] .. call.clock[2] .. #answered
  for field, kept in pairs(body.set) do body.set[field] = deltas.applied(redis.call('HGET', K.state, field), kept) end
  body.del = body.del or {}
  call.packed_commands = cmsgpack.pack(body)
end

local function due(args) redis.call('ZADD', K.timers, 0, args.timer) end
READY.wake, READY.deadline = due, due

function READY.expire(args)
  redis.call('ZADD', K.outbox, 0, args.kind .. '|' .. args.run .. '|' .. args.b)
end

function READY.finish(args)
  args.timer = nil
end

function VERBS.turn()
  turns.begin(A.limit, A.timeout)
  return { 'begun' }
end

-- What an attempt received, and what it has done, in addition to its journal entry.
local DETAILS = {}

-- Work id, digests of its events (none where they are not known), whether a fan-in has gathered them.
local function given(wid)
  local record, found, digests = records.get(wid), {}, {}
  if record.scope_id then
    local key = call.extra['members:' .. record.scope_id .. ':' .. record.step]
    found = key and redis.call('LRANGE', key, 0, record.members - 1) or {}
  elseif record.event then
    found[1] = record.event
  else
    for i, id in ipairs(record.event_ids or { record.event_id }) do found[i] = redis.call('HGET', K.events, id) end
  end
  for i, event in ipairs(found) do digests[i] = event and redis.sha1hex(event) end
  return { wid, digests, record.scope_id and 1 or 0 }
end

function DETAILS.claim(args) return given(args.w) end
function DETAILS.commit() return call.carried and not call.ended and given(call.carried) end
function DETAILS.flush(_, seq) return seq end       -- the number of the first event that it has published

function DETAILS.state_write(_, _, body)            -- key, what it is now, …
  local flat = {}
  for field in pairs(body.set) do
    flat[#flat + 1] = field
    flat[#flat + 1] = redis.call('HGET', K.state, field)
  end
  return flat
end

local own, positions, place_of = call, {}, {}
for name, place in pairs(call.positions) do positions[name] = place end
for i, name in ipairs(common.names) do place_of[name] = #call.keys - #common.names + i end

local function again(entry)
  local args = entry.args
  for name, value in pairs(common) do
    if args[name] == nil then args[name] = value end
  end
  args.member = ''
  positions.sent = args.w and place_of['sent:' .. args.w]
  A = args
  call = call_on(args.run, own.keys, positions, entry.clock, entry.body, args.w or 'start')
  call.again, call.named = true, own.named
  setmetatable(call.extra, USED)
  local record = args.w and records.get(args.w)
  if record then args.t = record.token end
  if READY[entry.verb] then READY[entry.verb](args, record or {}, unpacked_body()) end
  local seq, body = counters.get('seq'), with_details and unpacked_body()
  local status = VERBS[entry.verb]()[1]
  return status, with_details and DETAILS[entry.verb] and DETAILS[entry.verb](args, seq, body)
end

for i, entry in ipairs(entries) do
  local _, status, details = pcall(again, entry)
  status = type(status) == 'table' and status.err or tostring(status)
  answered[i] = with_details and { status, details or false } or status
end
call = own
redis.call('HSET', K.counters, 'replayed', first + #entries, 'answered', cmsgpack.pack(answered))
for _, key in ipairs(call.keys) do redis.call('PEXPIRE', key, life) end
return { 'replayed', cmsgpack.pack(answered) }
