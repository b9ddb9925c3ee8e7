-- The commit of the most common outcome: the step has returned one event for one other step, with which the caller
-- continues. Leaves what `commit` leaves, without decoding its commands. Any other case is answered `general`: nothing
-- was written, and the caller calls `commit`.
-- Args: run, w, t token, member, owner, carry, grace, entry and the common limits, all as in commit; of the next
--   work item: n (its id), s, nw, q, p, to (see `where` in model/commands.py), e (event id), en (event name), d (its
--   envelope), sc (fan-outs around both), rc (recoveries). i: name of the step's input. Body: commands, for the journal
--   only.
-- Answers: hopped token slot now | general. If repeated after it was applied, it answers `general`, and `commit` then
-- finds what it has led to.
--!keys work queue owner timers

local status = counters.status()
if status ~= 'running' or counters.get('wv') ~= 0 or counters.get('idle') ~= 0 then return { 'general' } end
local record = records.get(A.w)
if not record or record.state ~= 'running' or record.token ~= A.t or record.scope ~= A.sc
    or (record.batches or 0) ~= 0 or record.exchanges or record.sent_early or record.calls or record.taken
    or record.segments or record.scope_id or record.event_ids or record.answers then
  return { 'general' }
end
if redis.call('HEXISTS', K.queue, record.step .. ':t') == 1 then return { 'general' } end   -- slot goes to queued work
local slot = slots.take(A.s, A.nw, A.n)
if not slot then return { 'general' } end

local function next_record()
  local record = { version = records.VERSION, work_id = A.n, step = A.s, num_workers = A.nw, queue = A.q,
    priority = A.p, time_limit = A.to, event_id = A.e, event = A.d, event_name = A.en, scope = A.sc,
    recoveries = A.rc, slot = slot }
  return record
end

if record.time_limit then redis.call('ZREM', K.timers, 'deadline|' .. call.run .. '|' .. A.w) end
counters.add('commits', 1)
publish.state(record.step, 'not_running', tostring(record.slot), A.i, A.en)
carry.on(A.n, next_record())
if record.event_id and not record.event then events.drop(record.event_id) end
redis.call('HDEL', K.work, A.w)
slots.give(record.step, record.slot, A.w)
redis.call('SREM', K.owner, A.member)
journal.lead_to(A.n, A.s, A.en)
journal.commit(A.entry, record.claimed_at)
publish.save()
return { 'hopped', whole(counters.get('tokens')), whole(slot), whole(call.now) }
