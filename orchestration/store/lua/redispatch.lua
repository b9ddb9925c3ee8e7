-- Dispatch unclaimed work again. Args: run, items {{w, q line}}, redispatch (ms), redispatch_max (ms).
-- Answers: redispatched {dispatches, plan}. Work that no longer waits for a claim is removed from the index.
--!keys run unclaimed counters

local again = 0
local meta = redis.call('HMGET', K.run, 'status', 'plan')
local running = meta[1] == 'running'
for _, item in ipairs(A.items) do
  local record = running and records.get(item.w)
  if record and record.state == 'ready' then
    record.redispatches = (record.redispatches or 0) + 1
    record.dispatch_no = record.dispatch_no + 1
    record.dispatched_at = call.now
    records.put(item.w, record)
    local pause = math.min(A.redispatch_max, A.redispatch * 2 ^ record.redispatches)
    redis.call('ZADD', K.unclaimed, 'XX', whole(call.now + pause), call.run .. '|' .. item.w .. '|' .. item.q)
    redis.call('HINCRBY', K.counters, 'redispatches', 1)
    dispatch.ask_for_message(item.w, record)
    again = again + 1
  else
    unclaimed.drop(item.w, item.q)
  end
end
if again > 0 then journal.note('redispatch', { n = again }) end
return { 'redispatched', cmsgpack.pack({ dispatches = call.dispatches, ended = false, plan = meta[2] }) }
