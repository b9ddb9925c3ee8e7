-- Begin an edit of ctx.store: take its lock and read all of it. A repeated call with the same lock token gets the same
-- answer, so a lost reply leaves no lock behind. Called by the `edit_state` of a step or a client.
-- Args: run, w, t (see lib/writers.lua), me, reserve, lock (see lib/lock.lua), px (the life of the lock, ms).
-- Answers: locked {field value …} | held holder | closed | stale | unknown.
--!keys state lock next

local refused = writers.refusal()
if refused then return { refused } end
local holder = redis.call('GET', K.lock)
if holder and holder ~= A.lock then return lock.held(holder) end
local first = redis.call('GET', K.next)
if not holder and first and first ~= A.me then return lock.held(first) end
redis.call('SET', K.lock, A.lock, 'PX', A.px)
if first == A.me then redis.call('DEL', K.next) end
return { 'locked', redis.call('HGETALL', K.state) }
