-- Dispatching: the answer lists what the caller has to send a message for, and the unclaimed index remembers it.
--!include call record unclaimed

local dispatches = {}            -- part of the answer
local carry_on                   -- set by carry.lua in `commit`: the committing process takes ready work itself

local function ask_for_message(wid, record)
  dispatches[#dispatches + 1] = {
    w = wid, d = record.dispatch_no, s = record.step, q = record.queue, p = record.priority or 0 }
end

-- Makes a record that has a slot claimable and asks for a message.
local function dispatch(wid, record)
  if carry_on and carry_on(wid, record) then return end
  record.state = 'ready'
  record.dispatch_no = (record.dispatch_no or 0) + 1
  record.dispatched_at = NOW
  record.token, record.owner, record.claim_id, record.claimed_at = nil, nil, nil, nil
  put(wid, record)
  unclaimed_add(wid, line_of(record), NOW + A.redispatch)
  local message = A.push and A.push[wid]     -- the caller knew it would become ready, and where its message goes
  if message then
    redis.call('LPUSH', X[message[1]], message[2])
    return
  end
  ask_for_message(wid, record)
end
