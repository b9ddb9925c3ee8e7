-- A session whose runs wait for long: if the run that it is at has ended, the first in line begins. Only a process of
-- an earlier release leaves that to be done.
-- Args: run (that the session is at), at (when to look again, ms), and the common limits.
-- Answers: advanced {following} | waits.
--!keys handler lines

if turns.length() > 0 and turns.is_busy(redis.call('GET', K.handler) or call.run) then
  redis.call('ZADD', K.lines, 'XX', 'GT', whole(A.at), turns.session_id())
  return { 'waits' }
end
turns.advance()
return apply.answer('advanced')
