-- Rewind a run to an earlier point, atomically: its present work is dropped, and its work of that point is restored.
-- Its logs stay, and their numbering continues; every token issued until now is refused from here on.
-- Args: run, nonce (the caller's; a repetition with it gets the same answer), stop (also if the run is running), from
--   (the entry of the journal that it goes back to), old (logical names of its present dynamic keys), state {field ->
--   JSON}, timeout (ms or absent), commands {that fill its slots}, children {those that it keeps, see
--   `children.go_back`}, aside (names of the keys that were put aside, see `restoring.move`; absent: the content is in
--   the body), parts (how many parts these have), common limits. Body: puts {what to put, see lib/restoring.lua}.
-- Answers: rewound {dispatches, looks} | running | unknown | changed (it has other dynamic keys, or a child has moved
-- on, or what was put aside does not exist: try again) | superseded (its session has another run, or it waits for its
-- turn).
-- All of it is one script. It takes 2 ms per hundred work items in the body; what was put aside is only renamed.
--!keys run extra retire runs:running runs:completed runs:failed runs:cancelled runs:timed_out handler timers
--!keys journal

local meta = redis.call('HMGET', K.run, 'status', 'rewound', 'rewound_answer', 'limit', 'queued', 'branch')
local status, limit = meta[1], meta[4]
if not status or status == 'restoring' then return { 'unknown' } end
if meta[2] == A.nonce then return { 'rewound', meta[3] } end
if status == 'running' and not A.stop then return { 'running' } end
local at = redis.call('GET', K.handler)
if meta[5] or at and at ~= call.run then return { 'superseded' } end
local known = {}
for _, name in ipairs(A.old) do known[call.extra[name]] = true end
for _, key in ipairs(redis.call('SMEMBERS', K.extra)) do
  if not known[key] then return { 'changed' } end
end

local kept = A.children or {}
if children.outdated(kept) then return { 'changed' } end
if A.aside and redis.call('HGET', call.named['aside:run'], 'parts') ~= whole(A.parts) then return { 'changed' } end
local body = A.aside and {} or unpacked_body()

set_limits.drop()                               -- a later set gets its own limit
for _, key in ipairs(lifetimes.spent()) do redis.call('UNLINK', key) end
for _, name in ipairs(A.old) do
  local key = call.extra[name]
  redis.call('UNLINK', key)
end
redis.call('DEL', K.extra)
redis.call('HSET', K.run, 'status', 'running', 'branch', (tonumber(meta[6]) or 0) + 1, 'rewound', A.nonce)
redis.call('HDEL', K.run, 'ended_at', 'ending')
for _, name in ipairs({ 'live', 'asleep', 'scopes', 'idle' }) do counters.add(name, -counters.get(name)) end
if status ~= 'running' then
  redis.call('ZREM', K['runs:' .. status], call.run)
  redis.call('ZREM', K.retire, call.run)
  redis.call('ZADD', K['runs:running'], call.now, call.run)
  for _, key in ipairs(lifetimes.retained()) do redis.call('PERSIST', key) end
end
versions.write(A.state, {}, true)
turns.persist()
children.go_back(kept)
if A.aside then restoring.move(A.aside) else restoring.put(body.puts) end
if status ~= 'running' then
  beginning.begin_or_wait(limit, A.timeout)
else
  call.awaits_admission = redis.call('HGET', K.run, 'unbegun') or nil
  redis.call('ZREM', K.timers, 'timeout|' .. call.run)
  if A.timeout and not call.awaits_admission then timing.set_timer(A.timeout, 'timeout|' .. call.run) end
end
scopes.settle()
apply.commands(A.commands or body.commands)      -- an earlier release has put them in the body
redis.call('PERSIST', K.journal)
journal.write('rewind', { from = A.from, v = versions.present(), branch = (tonumber(meta[6]) or 0) + 1 })
finish.undo()
local reply = apply.answer('rewound')
redis.call('HSET', K.run, 'rewound_answer', reply[2])
return reply
