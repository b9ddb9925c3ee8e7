-- Local continuation: the committing process goes on with one work item that its commit makes ready. What dispatch and
-- claim do for it happens at once, without a doorbell: A.carry is the claim id, A.deny the steps it does not take.

local carried                    -- work id of what it goes on with

function carry_on(wid, record)
  if not A.carry or carried or record.u == 1 or (A.deny and A.deny[record.s]) then return false end
  carried = wid
  record.st = 'running'
  record.d = (record.d or 0) + 1
  record.da, record.ca, record.fa = NOW, NOW, record.fa or NOW
  record.t = redis.call('HINCRBY', K.run, 'tokens', 1) .. '-' .. A.carry
  record.o, record.c, record.fb, record.k = A.owner, A.carry, 0, nil
  put(wid, record)
  redis.call('SADD', K.owner, RUN .. '|' .. wid .. '|' .. A.carry)
  if record.to then
    redis.call('ZADD', K.timers, whole(NOW + record.to + A.grace), 'deadline|' .. RUN .. '|' .. wid)
  end
  trace(record.s, 'running', tostring(record.sl or 0), record.en)
  return true
end

-- The answer of a commit, with what the caller goes on with for as long as it has it.
local function committed(body, wid)
  local record = wid and get(wid)
  if not record or record.st ~= 'running' or record.c ~= A.carry then return { 'committed', body } end
  record.wv = tonumber(redis.call('HGET', K.run, 'wv') or 0)
  local reply = { 'committed', body, wid, cmsgpack.pack(record) }
  for _, id in ipairs(record.ev or { record.e }) do reply[#reply + 1] = redis.call('HGET', K.events, id) end
  for waiter, id in pairs(record.wr or {}) do
    reply[#reply + 1] = waiter
    reply[#reply + 1] = id and redis.call('HGET', K.events, id) or ''
  end
  return reply
end
