-- Open a session with a new name and an initial state: another session's, as of a version. It has no run yet.
-- Args: run (any of the session), id (of this call: a repetition gets the same answer), source (the other session), and
-- the common limits. Body: set {field -> JSON}.
-- Answers: opened | exists (a session or a run has this name).
--!keys handler session state

local is_mine = redis.call('HGET', K.session, 'opened_by') == A.id
if is_mine then return { 'opened' } end
local taken = redis.call('EXISTS', K.handler, K.session, K.state) > 0
if taken or turns.is_busy(turns.session_id()) then return { 'exists' } end
redis.call('HSET', K.session, 'opened_by', A.id, 'source', A.source)
versions.write(unpacked_body(), {})
turns.expire()
return { 'opened' }
