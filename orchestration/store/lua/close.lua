-- A session takes no more runs, and ends with those that go on and wait; or it is deleted, if none does.
-- Args: run (any of the session), delete (it is to be deleted), and the common limits.
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
