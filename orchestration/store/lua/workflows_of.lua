-- The workflows of many runs of one shard, for lists. Changes nothing.
-- Args: run (any of them), x (1 … n, one for each run key; there are no other keys).
-- Answers: a name for each, in order; empty where the run was deleted.
--!flags no-writes

local names = {}
for i = 1, #A.x do
  local key = call.named[i]
  names[i] = redis.call('HGET', key, 'workflow') or ''
end
return names
