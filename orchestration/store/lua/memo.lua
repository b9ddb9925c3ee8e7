-- Store what a step has computed (`ctx.once`) with its work item, for further executions of it.
-- Args: run, w, t token, name (field of K.collect), d (the value as JSON).
-- Answers: kept value (the first one that was stored under this name) | stale | closed | unknown.
--!keys run collect

local status = redis.call('HGET', K.run, 'status')
if status ~= 'running' then return { status and 'closed' or 'unknown' } end
local record = records.get(A.w)
if not record or record.state ~= 'running' or record.token ~= A.t then return { 'stale' } end
record.exchange_calls = record.exchange_calls or {}       -- calls of this attempt
local changes = not record.exchange_calls[A.name]
if not record.exchange_calls[A.name] then
  record.exchange_calls[A.name] = 1
  record.exchanges = (record.exchanges or 0) + 1
end
if redis.call('HSETNX', K.collect, A.name, A.d) == 1 then
  record.calls = record.calls or {}
  record.calls[#record.calls + 1] = A.name               -- deleted with the work item
  changes = true
end
if changes then journal.note('memo', { s = record.step }) end
records.put(A.w, record)
return { 'kept', redis.call('HGET', K.collect, A.name) }
