-- Hand back work of one run that an owner will not finish. Slots are kept; each item is dispatched again.
-- Args: run, owner, items {{w, c claim id, member}}, charge (the process died: each is suspected more, up to this level,
--   and a suspect that was alone is charged), limits. Answers: lost {dispatches}. Items that moved on meanwhile are only
--   forgotten.
--!keys run timers counters owner
--!include call record journal dispatch

local running = redis.call('HGET', K.run, 'status') == 'running'
local handed_back = {}
for _, item in ipairs(A.items) do
  redis.call('SREM', K.owner, item.member)
  local record = running and get(item.w)
  if record and record.st == 'running' and record.o == A.owner and record.c == item.c then
    if A.charge then
      record.lt = (record.lt or 0) + 1
      if record.al then record.l = (record.l or 0) + 1 end
      record.u = math.min(A.charge, (record.u or 0) + 1)
      redis.call('HINCRBY', K.counters, 'losses', 1)
    end
    redis.call('ZREM', K.timers, 'deadline|' .. RUN .. '|' .. item.w)
    handed_back[#handed_back + 1] = { w = item.w, s = record.s, o = A.owner, a = (record.f or 0) + (record.lt or 0), ca = record.ca }
    record.id = item.w
    dispatch(item.w, record)
  end
end
if #handed_back > 0 then journal(A.charge and 'lost' or 'released', handed_back) end
return { 'lost', cmsgpack.pack({ dispatches = dispatches, ended = false }) }
