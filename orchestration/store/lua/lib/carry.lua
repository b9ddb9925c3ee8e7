-- Local continuation: the committing process continues with one work item that its commit makes ready. What dispatch
-- and claim do for it happens at once, without a message: A.carry is the claim id, A.deny the steps it does not take.
--!keys timers owner
--!include call record publish dispatch claimed

local carried, carried_record     -- what it continues with

function carry_on(wid, record)
  if not A.carry or carried or record.suspicion or (A.deny and A.deny[record.step]) then return false end
  carried, carried_record = wid, record
  record.state = 'running'
  record.dispatch_no = (record.dispatch_no or 0) + 1
  record.dispatched_at, record.claimed_at, record.first_attempt_at = NOW, NOW, record.first_attempt_at or NOW
  record.token = whole(add('tokens', 1)) .. '-' .. A.carry
  record.owner, record.claim_id, record.batches = A.owner, A.carry, 0
  record.exchanges, record.exchange_calls, record.redispatches = nil, nil, nil
  put(wid, record)
  redis.call('SADD', K.owner, RUN .. '|' .. wid .. '|' .. A.carry)
  if record.time_limit then
    redis.call('ZADD', K.timers, whole(NOW + record.time_limit + A.grace), 'deadline|' .. RUN .. '|' .. wid)
  end
  trace(record.step, 'running', tostring(record.slot or 0), record.event_name)
  return true
end

-- The answer of a commit, with what the caller continues with: also when asked again, as long as the caller holds it.
local function committed(body, wid)
  local record = wid and (carried_record or get(wid))
  if not record or record.state ~= 'running' or record.claim_id ~= A.carry then return { 'committed', body } end
  return claimed({ 'committed', body, wid }, record, counter('wv'))
end
