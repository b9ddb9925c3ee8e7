-- Claim the right to execute one work item, or get the reason why not. The attempt is counted here, before user code.
-- Args: run, w work id, d dispatch number of the dispatch, c claim id (the caller's), owner, suspicion (the caller
--   accepts suspects up to this level), alone (it runs nothing else meanwhile), lease (ms), grace (ms beyond a step's
--   own limit), member (what the owner's set holds).
-- Answers: claimed {record, run} payload… | busy | stale | closed | fenced | suspect | unknown.
-- A repeated call with the same claim id gets the same answer, so a lost reply orphans nothing.
--!keys run watermark leases fenced counters owner

local meta = redis.call('HMGET', K.run, 'status', 'plan', 'workflow', 'wv', 'tokens', 'created_at', 'state_id',
  'options', 'seq', 'branch')
if not meta[1] then
  redis.call('HINCRBY', K.counters, 'stale_doorbells', 1)
  return { 'unknown' }
end
if redis.call('ZSCORE', K.fenced, A.owner) then return { 'fenced' } end
local record = records.get(A.w)
if meta[1] ~= 'running' then
  if record then unclaimed.drop(A.w, unclaimed.line_of(record)) end
  redis.call('HINCRBY', K.counters, 'stale_doorbells', 1)
  return { 'closed' }
end
if not record then
  redis.call('HINCRBY', K.counters, 'stale_doorbells', 1)
  return { 'stale' }
end
if record.state == 'running' and record.claim_id ~= A.c then
  redis.call('HINCRBY', K.counters, 'duplicate_doorbells', 1)
  return { 'busy' }
end
if record.state ~= 'running' then
  if record.state ~= 'ready' or A.d > record.dispatch_no then
    redis.call('HINCRBY', K.counters, 'stale_doorbells', 1)
    return { 'stale' }
  end
  if (record.suspicion or 0) > A.suspicion then return { 'suspect' } end
  call.counters = { tokens = tonumber(meta[5] or 0), seq = tonumber(meta[9] or 0) }
  local n = whole(counters.add('tokens', 1))
  record.state = 'running'
  record.token = n .. '-' .. A.c
  record.owner, record.claim_id, record.claimed_at = A.owner, A.c, call.now
  record.batches, record.exchanges, record.exchange_calls = 0, nil, nil
  if not record.first_attempt_at then record.first_attempt_at = call.now end
  record.alone = record.suspicion and A.alone  -- if the process dies, this item was the cause
  record.redispatches = nil                    -- the next dispatch backs off from the beginning
  records.put(A.w, record)
  local line = unclaimed.line_of(record)
  unclaimed.drop(A.w, line)
  local newest = tonumber(redis.call('HGET', K.watermark, line) or 0)
  if newest > call.now then newest = 0 end      -- the clock was set back since
  if record.dispatched_at > newest and record.dispatched_at <= call.now then
    redis.call('HSET', K.watermark, line, whole(record.dispatched_at))
  end
  redis.call('SADD', K.owner, A.member)
  if redis.call('SCARD', K.owner) == 1 then   -- no heartbeat has renewed the lease of an idle owner
    redis.call('ZADD', K.leases, whole(call.now + A.lease), A.owner)
  end
  if record.time_limit then                -- the sweep acts if the process hangs
    timing.set_timer(record.time_limit + A.grace, 'deadline|' .. call.run .. '|' .. A.w)
  end
  publish.state(record.step, 'running', tostring(record.slot or 0), record.event_name)
  journal.note('claim', { s = record.step, a = (record.failures or 0) + (record.losses or 0) + 1 })
end

publish.save()
return claimed.reply({ 'claimed' }, record, cmsgpack.pack({
  plan = meta[2], workflow = meta[3], wv = tonumber(meta[4] or 0), created_at = tonumber(meta[6]),
  state_id = meta[7], options = meta[8] or '', branch = tonumber(meta[10]), now = call.now }))
