-- Dispatching: the answer lists what the caller has to send a message for, and the unclaimed index remembers it.
--!include call record unclaimed

local dispatches = {}            -- part of the answer
local carry_on                   -- set by carry.lua in `commit`: the committing process takes ready work itself

-- Makes a record that has a slot claimable and asks for a message.
local function dispatch(wid, record)
  if carry_on and carry_on(wid, record) then return end
  record.st = 'ready'
  record.d = (record.d or 0) + 1
  record.da = NOW
  record.t, record.o, record.c, record.ca = nil, nil, nil, nil
  put(wid, record)
  unclaimed_add(wid, line_of(record), NOW + A.redispatch)
  local message = A.push and A.push[wid]     -- the caller knew it would become ready, and where its message goes
  if message then
    redis.call('LPUSH', X[message[1]], message[2])
    return
  end
  dispatches[#dispatches + 1] = { w = wid, d = record.d, s = record.s, q = record.q, p = record.p or 0 }
end
