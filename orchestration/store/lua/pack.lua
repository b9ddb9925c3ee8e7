-- Replace the oldest entries of a run's journal with a compressed chunk. Published events are not touched.
-- Args: run, cut (how many entries the journal no longer had when the chunk was made), first (id of its oldest entry),
--   next (the lowest id after those in the chunk), name (of the chunk), before (digest of the chunk before; absent:
--   there is none), digest (of this one), start and size (of the first chunk: the packed commands of the run's start,
--   if they are small, and how many bytes these are), x (copy: for copies of the logs; absent: they stay as they are).
-- Body: the chunk. Answers: packed | changed. All or nothing: at any moment an entry is in the journal or in a chunk.
-- Repeating a call changes nothing.
--!flags allow-oom
--!keys journal packed stream trace

local FEW = 500

local cut = removed.entries()
if cut ~= A.cut then return { 'changed' } end
local oldest = redis.call('XRANGE', K.journal, '-', '+', 'COUNT', 1)[1]
if not oldest or oldest[1] ~= A.first then return { 'changed' } end
if cut == 0 then redis.call('UNLINK', K.packed) end   -- of a run of this id that an older release has deleted
if (redis.call('HGET', K.packed, 'digest') or nil) ~= A.before then return { 'changed' } end

redis.call('HSET', K.packed, A.name, call.packed_commands, 'digest', A.digest)
if A.size then redis.call('HSET', K.packed, 'size', A.size, 'start', A.start or '') end
redis.call('XTRIM', K.journal, 'MINID', '=', A.next)
local life = redis.call('PTTL', K.journal)
if life > 0 then redis.call('PEXPIRE', K.packed, life) else redis.call('PERSIST', K.packed) end

-- A log's last node is allocated larger than its content; that of a copy is not. This matters if there are few entries.
local copy = call.named['copy']
if copy and redis.call('XLEN', K.stream) <= FEW and redis.call('COPY', K.stream, copy, 'REPLACE') == 1 then
  redis.call('RENAME', copy, K.stream)
end
if copy and redis.call('XLEN', K.trace) <= FEW and redis.call('COPY', K.trace, copy, 'REPLACE') == 1 then
  redis.call('RENAME', copy, K.trace)
end
return { 'packed' }
