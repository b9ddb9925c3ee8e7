-- Local continuation: the committing process continues with one work item that its commit makes ready. It is dispatched
-- and claimed in this script, without a message: A.carry is the claim id, A.deny the steps that it does not take.
--!keys owner

-- Continues with a work item that has become ready, if allowed; returns whether it does. `call.carried` and
-- `call.carried_record` are then its id and record.
function carry.on(wid, record)
  if not A.carry or call.carried or record.suspicion or (A.deny and A.deny[record.step]) then return false end
  call.carried, call.carried_record = wid, record
  record.state = 'running'
  record.dispatch_no = (record.dispatch_no or 0) + 1
  record.dispatched_at, record.claimed_at = call.now, call.now
  record.first_attempt_at = record.first_attempt_at or call.now
  record.token = whole(counters.add('tokens', 1)) .. '-' .. A.carry
  record.owner, record.claim_id, record.batches = A.owner, A.carry, 0
  record.exchanges, record.exchange_calls, record.redispatches = nil, nil, nil
  records.put(wid, record)
  redis.call('SADD', K.owner, call.run .. '|' .. wid .. '|' .. A.carry)
  if record.time_limit then
    timing.set_timer(record.time_limit + A.grace, 'deadline|' .. call.run .. '|' .. wid)
  end
  publish.state(record.step, 'running', tostring(record.slot or 0), record.event_name)
  return true
end

-- The work item that an earlier call of this commit continued with: the owner holds it under the same claim id.
function carry.found()
  if not A.carry then return nil end
  local head, tail = call.run .. '|', '|' .. A.carry
  for _, member in ipairs(redis.call('SMEMBERS', K.owner)) do
    if string.sub(member, 1, #head) == head and string.sub(member, -#tail) == tail then
      return string.sub(member, #head + 1, -#tail - 1)
    end
  end
  return nil
end

-- The answer of a commit, with the work to continue with; a repeated call gets it, too, as long as the caller holds it.
function carry.committed(body, wid)
  local record = wid and (call.carried_record or records.get(wid))
  if not record or record.state ~= 'running' or record.claim_id ~= A.carry then return { 'committed', body } end
  return claimed.reply({ 'committed', body, wid }, record, counters.get('wv'))
end
