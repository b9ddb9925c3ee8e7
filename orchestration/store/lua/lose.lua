-- Hand back work of one run that an owner will not finish. Slots are kept; each item is dispatched again.
-- Args: run, owner, items {{w, c claim id, member}}, charge (the process died: the suspicion of each item rises, up to
--   this level, and a suspect that ran alone is charged), limits. Answers: lost {dispatches}. Items that have moved on
--   meanwhile are only removed from the owner's set.
--!keys run timers counters owner

local running = redis.call('HGET', K.run, 'status') == 'running'
local handed_back = {}
for _, item in ipairs(A.items) do
  redis.call('SREM', K.owner, item.member)
  local record = running and records.get(item.w)
  if record and record.state == 'running' and record.owner == A.owner and record.claim_id == item.c then
    if A.charge then
      record.losses = (record.losses or 0) + 1
      if record.alone then record.charged_losses = (record.charged_losses or 0) + 1 end
      record.suspicion = math.min(A.charge, (record.suspicion or 0) + 1)
      redis.call('HINCRBY', K.counters, 'losses', 1)
    end
    redis.call('ZREM', K.timers, 'deadline|' .. call.run .. '|' .. item.w)
    local attempts = (record.failures or 0) + (record.losses or 0)
    handed_back[#handed_back + 1] = {
      w = item.w, s = record.step, o = A.owner, a = attempts, ca = record.claimed_at }
    record.work_id = item.w
    dispatch.work(item.w, record)
  end
end
if #handed_back > 0 then journal.write(A.charge and 'lost' or 'released', handed_back) end
return { 'lost', cmsgpack.pack({ dispatches = call.dispatches, ended = false }) }
