-- Clear up the dynamic keys of an ended run: a completed run no longer needs them; another one may be revived and keeps
-- them for the run's own lifetime. Args: run, keep (ms), x (their names). Answers: retired.
--!flags allow-oom
--!keys run retire journal

local status = redis.call('HGET', K.run, 'status')
if status ~= 'running' then
  local keep = retention.of_run()
  for name in pairs(call.named) do
    local key = call.extra[name]               -- marks it as used, for the journal
    if status == 'completed' then redis.call('UNLINK', key) else redis.call('PEXPIRE', key, keep) end
  end
  redis.call('ZREM', K.retire, call.run)
  if status == 'completed' then journal.note('retire', {}) end
  if redis.call('PTTL', K.journal) == -1 then redis.call('PEXPIRE', K.journal, keep) end
end
return { 'retired' }
