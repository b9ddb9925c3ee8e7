-- Record the outcome of a step: everything it did, atomically. All checks first, all writes last.
-- Args: run, w, t token, member, batches (early flushes that must have arrived), xs (state
--   writes and collect_events calls that were answered), what the decision was based on (wv, iv, seen, answers, early:
--   see `waiters.outdated`), entry (journal), and the common limits.
--   carry (claim id: the caller continues with one work item that becomes ready), deny {step = 1 …} (except of these),
--   grace (ms beyond that item's own limit).
--   back {field -> JSON} of ctx.store that the step has changed in place.
-- Body: commands. Answers: committed {dispatches, ended}, and if the caller continues: work id, record, version of the
-- waiters, payload… | changed | missing {have} | stale | closed.
-- A repeated commit gets the first answer: if that is only the work item to continue with, as long as the caller holds
-- it, otherwise for 60 s. After that it gets `stale`, which is also correct.
--!keys timers counters owner answer

-- The answer was lost and the caller repeats the call: the first call has used up the token, or has ended the run.
local function remembered()
  local packed = redis.call('GET', K.answer)
  local known = packed and cmsgpack.unpack(packed)
  if not (known and known.t == A.t) then
    local wid = carry.found()
    if not wid then return nil end
    known = { body = cmsgpack.pack({ dispatches = {}, ended = false }), w = wid }
  end
  redis.call('HINCRBY', K.counters, 'repeated_commits', 1)
  return carry.committed(known.body, known.w)
end

local status = counters.status()
if status ~= 'running' then
  local first = remembered()
  if first then return first end
  redis.call('SREM', K.owner, A.member)
  return { status and 'closed' or 'unknown' }
end
local record = records.get(A.w)
if not record or record.state ~= 'running' or record.token ~= A.t then
  local first = remembered()
  if first then return first end
  redis.call('SREM', K.owner, A.member)
  redis.call('HINCRBY', K.counters, 'stale_commits', 1)
  return { 'stale' }
end
if (record.batches or 0) ~= A.batches then return { 'missing', cmsgpack.pack({ have = record.batches or 0 }) } end
-- A Redis that was set back has lost what this attempt did before: its outcome must not be recorded without that.
if A.xs and (record.exchanges or 0) < A.xs then
  return { 'missing', cmsgpack.pack({ have = record.exchanges or 0 }) }
end
if waiters.outdated() then return { 'changed' } end

if record.time_limit then redis.call('ZREM', K.timers, 'deadline|' .. call.run .. '|' .. A.w) end
counters.add('commits', 1)
call.carry_on = carry.on
local claimed_at, failures = record.claimed_at, record.failures or 0
if A.back then
  local version, kept = versions.write(A.back, {})
  local fields = {}
  for field in pairs(A.back) do fields[#fields + 1] = field end
  local commands = call.packed_commands
  call.packed_commands = A.full and cmsgpack.pack({ set = kept or A.back, del = {} })
  call.args = {}                               -- replayed as a separate write
  journal.write('state', { w = A.w, s = record.step, how = 'change in place', set = fields, del = {}, v = version })
  call.packed_commands, call.args = commands, nil
end
apply.commands(unpacked_body(), record)
if (record.failures or 0) > failures then
  redis.call('HINCRBY', K.counters, record.state == 'failed' and 'dead_letters' or 'retries', 1)
end
redis.call('SREM', K.owner, A.member)      -- after adding the item to continue with: the set must not look empty
journal.commit(A.entry, claimed_at)
local body = apply.answer('committed')[2]
if call.carried and call.ended then                  -- the run has ended: there is nothing to continue with
  redis.call('SREM', K.owner, call.run .. '|' .. call.carried .. '|' .. A.carry)
  call.carried = nil
end
if not (call.carried and apply.asks_nothing()) then
  redis.call('SET', K.answer, cmsgpack.pack({ t = A.t, body = body, w = call.carried }), 'PX', 60000)
end
return carry.committed(body, call.carried)
