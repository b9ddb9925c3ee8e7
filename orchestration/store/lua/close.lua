-- Close a session: it accepts no more runs, and ends with those that run or wait; or delete it, if there are none.
-- Args: run (any of the session), delete (delete it), and the common limits.
-- Answers: closed | deleted | busy. Repeating it changes nothing.
--!keys handler session

local at = redis.call('GET', K.handler)
local goes_on = at and turns.is_busy(at) or turns.length() > 0
if A.delete then
  if goes_on then return { 'busy' } end
  turns.forget()
  return { 'deleted' }
end
redis.call('HSETNX', K.session, 'closed', call.now)
if not goes_on then redis.call('PEXPIRE', K.session, A.skeep) end
return { 'closed' }
