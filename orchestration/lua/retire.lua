-- Give the dynamic keys of an ended run the run's lifetime. Args: run, keep (ms), x (their names). Answers: retired.
--!keys run extra retire
--!include record

if redis.call('HGET', K.run, 'status') ~= 'running' then
  for _, key in pairs(X) do redis.call('PEXPIRE', key, A.keep) end
  redis.call('ZREM', K.retire, RUN)
end
return { 'retired' }
