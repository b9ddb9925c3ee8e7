-- Write to ctx.store and journal it. Ends the edit if the writer has the lock.
-- Args: run, w, t (see lib/writers.lua), me, reserve (see lib/lock.lua), id (of this write; the last one of each
--   process is remembered for 60 s, so a repetition is absorbed), lock (token of the writer's edit) or expect {field ->
--   SHA-1 of the value that the new one was made from, '' for none}, how (what the user called, for the journal),
--   xs (exchanges of this attempt that Redis had answered before, as in flush.lua), common limits.
-- Body: set {field -> JSON}, del {field …}, replace (drop all other fields). The journal keeps it, large values as
-- their difference (lib/deltas.lua) from the value before this write, even if all other fields are dropped.

-- Answers: written | held holder | lost (another writer has the lock by now) | changed | closed | stale | unknown |
-- missing (Redis was set back: others would see this write without those before it).
--!keys journal answer state versions lock next handler

local body = unpacked_body()
if redis.call('GET', K.answer) == A.id then return { 'written' } end
local refused, status, record = writers.refusal()
if record and A.xs and (record.exchanges or 0) < A.xs then refused = 'missing' end
if refused then
  lock.drop()
  return { refused }
end
local holder = redis.call('GET', K.lock)
if A.lock then
  if holder ~= A.lock then return { 'lost' } end
elseif holder then
  return lock.held(holder)
end
for field, digest in pairs(A.expect or {}) do
  local value = redis.call('HGET', K.state, field)
  if (value and redis.sha1hex(value) or '') ~= digest then return { 'changed' } end
end

if record then
  record.exchanges = (record.exchanges or 0) + 1
  records.put(A.w, record)
end
local life = redis.call('PTTL', K.state)     -- -2 no key, -1 no expiry
local version, kept = versions.write(body.set, body.del, body.replace)
if kept then call.packed_commands = cmsgpack.pack({ set = kept, del = body.del, replace = body.replace }) end
local fields = {}
for field in pairs(body.set) do fields[#fields + 1] = field end
-- The state of a session is also that of its current run: while that one is in progress, neither key expires, even if
-- a handler of an earlier run writes the first value.
if status == 'running' or redis.call('PTTL', K.handler) == -1 then
  redis.call('PERSIST', K.state)
  redis.call('PERSIST', K.versions)
elseif life ~= -1 then                     -- before its start and after its end, a run's state must expire
  if life <= 0 then life = retention.of_run() end
  redis.call('PEXPIRE', K.state, life)
  redis.call('PEXPIRE', K.versions, life)
end
journal.write('state', {
  w = A.w, s = record and record.step, how = A.how, set = fields, del = body.del,
  replace = body.replace, v = version })
if status ~= 'running' and redis.call('PTTL', K.journal) == -1 then
  redis.call('PEXPIRE', K.journal, retention.of_run())
end
redis.call('SET', K.answer, A.id, 'PX', 60000)
if redis.call('GET', K.next) == A.me then redis.call('DEL', K.next) end
lock.drop()
return { 'written' }
