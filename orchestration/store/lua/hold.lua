-- Postpone dispatched work whose workflow is paused: it stays unclaimed, with a later next look, and is noted as held.
-- Args: run, w, put_off (ms). Answers: held | stale.
--!keys run unclaimed held

local record = redis.call('HGET', K.run, 'status') == 'running' and records.get(A.w)
if not record or record.state ~= 'ready' then return { 'stale' } end
local member = call.run .. '|' .. A.w .. '|' .. unclaimed.line_of(record)
local look_at = tonumber(redis.call('ZSCORE', K.unclaimed, member) or '+inf')
if look_at < call.now + A.put_off / 2 then   -- otherwise an earlier call with a lost reply has postponed it
  redis.call('ZADD', K.unclaimed, 'XX', whole(call.now + A.put_off), member)
end
redis.call('ZADD', K.held, 'NX', call.now, member)
return { 'held' }
