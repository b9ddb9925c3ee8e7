-- Dispatching: the answer lists the work for which the caller has to send messages, and the unclaimed index records it.


function dispatch.ask_for_message(wid, record)
  call.dispatches[#call.dispatches + 1] = {
    w = wid, d = record.dispatch_no, s = record.step, q = record.queue, p = record.priority or 0 }
end

-- Makes a record that has a slot claimable and asks for a message.
function dispatch.work(wid, record)
  if call.carry_on and call.carry_on(wid, record) then return end   -- the committing process takes it itself
  record.state = 'ready'
  record.dispatch_no = (record.dispatch_no or 0) + 1
  record.dispatched_at = call.now
  record.token, record.owner, record.claim_id, record.claimed_at = nil, nil, nil, nil
  records.put(wid, record)
  unclaimed.add(wid, unclaimed.line_of(record), call.now + A.redispatch)
  local message = A.push and A.push[wid]    -- the caller expected it to become ready, and passed its message
  if message then
    redis.call('LPUSH', call.extra[message[1]], message[2])
    return
  end
  dispatch.ask_for_message(wid, record)
end
