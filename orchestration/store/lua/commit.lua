-- Record the outcome of a step: everything it did, at once. All checks first, all writes last.
-- Args: run, w, t token, wf workflow (for monitors), member, batches (early flushes that must have arrived), xs (state
--   writes and collect_events calls that were answered), wv (waiters' version the decision was made with, or absent
--   when it does not depend on it), entry (journal), and the common limits.
--   carry (claim id: the caller goes on with one work item that becomes ready), deny {step = 1 …} (but not of these),
--   grace (ms beyond that item's own limit).
-- Body: commands. Answers: committed {dispatches, ended}, and if it goes on: work id, record, payload… | changed |
-- missing {have} | stale | closed.
-- Repeating a commit gives its first answer for 60 s; after that `stale`, which is as true.
--!keys timers counters owner answer
--!include call record journal publish apply carry measure

-- Asked again, because the answer was lost: the first time has used up the token, or has ended the run.
local function remembered()
  local packed = redis.call('GET', K.answer)
  local known = packed and cmsgpack.unpack(packed)
  if not (known and known.t == A.t) then return nil end
  redis.call('HINCRBY', K.counters, 'repeated_commits', 1)
  return committed(known.body, known.w)
end

local status = run_status()
if status ~= 'running' then
  local first = remembered()
  if first then return first end
  redis.call('SREM', K.owner, A.member)
  return { status and 'closed' or 'unknown' }
end
local record = get(A.w)
if not record or record.state ~= 'running' or record.token ~= A.t then
  local first = remembered()
  if first then return first end
  redis.call('SREM', K.owner, A.member)
  redis.call('HINCRBY', K.counters, 'stale_commits', 1)
  return { 'stale' }
end
if (record.batches or 0) ~= A.batches then return { 'missing', cmsgpack.pack({ have = record.batches or 0 }) } end
-- A Redis that was set back has forgotten what this attempt did before: its outcome must not stand without that.
if A.xs and (record.exchanges or 0) < A.xs then
  return { 'missing', cmsgpack.pack({ have = record.exchanges or 0 }) }
end
if A.wv and A.wv ~= counter('wv') then return { 'changed' } end

if record.time_limit then redis.call('ZREM', K.timers, 'deadline|' .. RUN .. '|' .. A.w) end
add('commits', 1)
local claimed_at, failures = record.claimed_at, record.failures or 0
apply(BODY, record)
measure('took|' .. A.wf .. '|' .. record.step, NOW - claimed_at)
if (record.failures or 0) > failures then
  redis.call('HINCRBY', K.counters, record.state == 'failed' and 'dead_letters' or 'retries', 1)
end
redis.call('SREM', K.owner, A.member)      -- after what it goes on with has come in: the set must not look empty
A.entry.ca, A.entry.o, A.entry.t = claimed_at, A.owner, tonumber(string.match(A.t, '^%d+'))
journal('commit', A.entry)
local body = answer('committed')[2]
if carried and ended then                  -- the run has ended: nobody goes on with anything
  redis.call('SREM', K.owner, RUN .. '|' .. carried .. '|' .. A.carry)
  carried = nil
end
redis.call('SET', K.answer, cmsgpack.pack({ t = A.t, body = body, w = carried }), 'PX', 60000)
return committed(body, carried)
