-- A session whose runs have waited for long: if its current run has ended, the first run in line begins. This is only
-- needed if a process of an earlier release has ended the run.
-- Args: run (the session's current run), at (when to look again, ms), and the common limits.
-- Answers: advanced {following} | waits.
--!keys handler lines

if turns.length() > 0 and turns.is_busy(redis.call('GET', K.handler) or call.run) then
  redis.call('ZADD', K.lines, 'XX', 'GT', whole(A.at), turns.session_id())
  return { 'waits' }
end
turns.advance()
return apply.answer('advanced')
