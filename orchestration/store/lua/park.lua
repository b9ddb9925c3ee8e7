-- Set work aside because this worker lacks its code; parked is not failed. Args: run, w, name (workflow|step), lacks
-- (what is missing besides the step, if that is the reason), and if it is already claimed: c claim id, owner, member.
-- Answers: parked | stale | closed.
--!keys run parked owner

local run = redis.call('HMGET', K.run, 'status', 'workflow')
if run[1] ~= 'running' then return { 'closed' } end
local record = records.get(A.w)
local mine = record and record.state == 'running' and record.claim_id == A.c
if not record or not (mine or record.state == 'ready') then return { 'stale' } end
-- The step that a message names is checked: work parked under another name would never be unparked.
if A.name ~= run[2] .. '|' .. record.step then return { 'stale' } end
if mine then redis.call('SREM', K.owner, A.member) end
record.state = 'parked'
unclaimed.drop(A.w, unclaimed.line_of(record))
records.put(A.w, record)
redis.call('ZADD', K.parked, call.now, A.name .. (A.lacks and '@' .. A.lacks or '') .. '|' .. call.run .. '|' .. A.w)
publish.state(record.step, 'parked', '<needs_code>', record.event_name)
publish.save()
journal.write('parked', { w = A.w, s = record.step })
return { 'parked' }
