-- Keep what a run was at one of its packed entries beside them, and let go of what is older than is to be kept.
-- Args: run, name (of the checkpoint), drop (names of chunks and checkpoints that go). Body: the checkpoint, if
-- one is kept.
-- Answers: kept | unknown (nothing of the run is packed). Repeating a call changes nothing.
--!flags allow-oom
--!keys packed

if redis.call('HEXISTS', K.packed, 'digest') == 0 then return { 'unknown' } end
if call.packed_commands then redis.call('HSETNX', K.packed, A.name, call.packed_commands) end
for _, name in ipairs(A.drop or {}) do redis.call('HDEL', K.packed, name) end
return { 'kept' }
