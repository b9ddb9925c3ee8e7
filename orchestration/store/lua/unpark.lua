-- A worker that has the code dispatches parked work. Args: run, items {{w, member}}. Answers: unparked {dispatches}.
--!keys run parked

local running = redis.call('HGET', K.run, 'status') == 'running'
for _, item in ipairs(A.items) do
  redis.call('ZREM', K.parked, item.member)
  local record = running and records.get(item.w)
  if record and record.state == 'parked' then
    record.redispatches = nil
    dispatch.work(item.w, record)
  end
end
if #call.dispatches > 0 then journal.note('unpark', { n = #call.dispatches }) end
return { 'unparked', cmsgpack.pack({ dispatches = call.dispatches, ended = false }) }
