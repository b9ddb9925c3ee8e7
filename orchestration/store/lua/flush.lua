-- Apply one batch of what a running step has sent and published before its end.
-- Args: run, w, t token, batch (number of this batch, from 1), xs (state writes, collect_events calls that Redis had
--   answered before the events were sent), wv, seen and answers as in commit, publishes {command…}, common limits.
-- Body: sends {{id emit identity, commands}}. Answers: flushed {dispatches, ended} | changed | missing {have} | stale |
-- closed. A batch that arrives twice is applied once; an event that an earlier attempt has already sent is absorbed.
--!keys extra counters sent

local body = unpacked_body()
local status = counters.status()
if status ~= 'running' then return { status and 'closed' or 'unknown' } end
local record = records.get(A.w)
if not record or record.state ~= 'running' or record.token ~= A.t then return { 'stale' } end
if (record.batches or 0) >= A.batch then return { 'flushed', cmsgpack.pack({ dispatches = {}, ended = false }) } end
if A.batch > (record.batches or 0) + 1 then return { 'missing', cmsgpack.pack({ have = record.batches or 0 }) } end
-- As in commit.lua: steps that follow would miss what this attempt wrote before it sent their events.
if A.xs and (record.exchanges or 0) < A.xs then
  return { 'missing', cmsgpack.pack({ have = record.exchanges or 0 }) }
end
if waiters.outdated() then return { 'changed' } end

record.batches = A.batch
if #body > 0 and not record.sent_early then
  record.sent_early = 1
  redis.call('SADD', K.extra, K.sent)
end
records.put(A.w, record)
for _, c in ipairs(A.publishes) do publish.event(c.d, record.step, c.a) end
for _, send in ipairs(body) do
  if redis.call('SADD', K.sent, send.id) == 1 then
    apply.commands(send.commands)
    if call.ended then break end
  else
    redis.call('HINCRBY', K.counters, 'absorbed_sends', 1)
  end
end
if #body > 0 then
  journal.write('flush', { w = A.w, s = record.step, p = #A.publishes })
else
  journal.note('published', { s = record.step, p = #A.publishes })
end
return apply.answer('flushed')
