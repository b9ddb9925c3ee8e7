-- A run that waited is admitted: what has queued up at its steps is dispatched, and its time-out begins.
-- Args: run, ticket, and the common limits. Body: commands that fill the slots of its steps.
-- Answers: begun {dispatches} | closed | unknown. A repeated call gets the same answer; `closed` if the run has ended
-- or was revived with another ticket.
--!keys run awaiting_admission

local meta = redis.call('HMGET', K.run, 'status', 'ticket', 'unbegun', 'begun', 'timeout')
if not meta[1] then return { 'unknown' } end
if meta[1] ~= 'running' or meta[2] ~= A.ticket then return { 'closed' } end
if not meta[3] then return { 'begun', meta[4] } end
redis.call('ZREM', K.awaiting_admission, call.run)
beginning.begin(tonumber(meta[5]))
local reply = apply.answer('begun')
redis.call('HSET', K.run, 'begun', reply[2])
return reply
