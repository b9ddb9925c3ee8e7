-- Local continuation: the committing process goes on with one work item that its commit makes ready. What dispatch and
-- claim do for it happens at once, without a dispatch: A.carry is the claim id, A.deny the steps it does not take.
--!keys timers owner
--!include call record publish dispatch claimed

local carried, carried_record     -- what it goes on with

function carry_on(wid, record)
  if not A.carry or carried or record.u or (A.deny and A.deny[record.s]) then return false end
  carried, carried_record = wid, record
  record.st = 'running'
  record.d = (record.d or 0) + 1
  record.da, record.ca, record.fa = NOW, NOW, record.fa or NOW
  record.t = whole(add('tokens', 1)) .. '-' .. A.carry
  record.o, record.c, record.fb, record.xs, record.xc, record.k = A.owner, A.carry, 0, nil, nil, nil
  put(wid, record)
  redis.call('SADD', K.owner, RUN .. '|' .. wid .. '|' .. A.carry)
  if record.to then
    redis.call('ZADD', K.timers, whole(NOW + record.to + A.grace), 'deadline|' .. RUN .. '|' .. wid)
  end
  trace(record.s, 'running', tostring(record.sl or 0), record.en)
  return true
end

-- The answer of a commit, with what the caller goes on with. Asked again it is given for as long as the caller has it.
local function committed(body, wid)
  local record = wid and (carried_record or get(wid))
  if not record or record.st ~= 'running' or record.c ~= A.carry then return { 'committed', body } end
  record.wv = counter('wv')
  return claimed({ 'committed', body, wid }, record)
end
