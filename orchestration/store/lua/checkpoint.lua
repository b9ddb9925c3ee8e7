-- Store a checkpoint (what a run was at one of its packed entries) beside these, and drop what is too old to be kept.
-- Args: run, name (of the checkpoint), drop (names of the chunks and checkpoints to drop). Body: the checkpoint, if
-- one is stored.
-- Answers: kept | unknown (nothing of the run is packed). Repeating a call changes nothing.
--!flags allow-oom
--!keys packed

if redis.call('HEXISTS', K.packed, 'digest') == 0 then return { 'unknown' } end
if call.packed_commands then redis.call('HSETNX', K.packed, A.name, call.packed_commands) end
for _, name in ipairs(A.drop or {}) do redis.call('HDEL', K.packed, name) end
return { 'kept' }
