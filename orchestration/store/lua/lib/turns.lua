-- A session: runs that share a state, one at a time. K.handler is its current run, K.line the runs that wait for their
-- turn, oldest first. The latter have not begun (see `beginning`), with `queued` in their record and `fills`, the
-- commands that they begin with. The script that ends a run begins the next one, so nothing can come between them.
--!keys run handler line lines state versions lock session sessions
--!keys session_runs

local LISTED = 1000                       -- how many of its runs a session lists

-- Makes the call one on another run of the same session, with these commands. Returns the former call, to be restored
-- by `call = …`. Only the script knows which run that is, so its keys are computed.
local function turn_to(run, packed_commands)
  local was, own, keys = call, K.run, {}
  local before = string.sub(own, 1, #own - #call.run)
  for i, key in ipairs(call.keys) do
    local rest = string.sub(key, #own + 1)
    local is_own = string.sub(key, 1, #own) == own and (rest == '' or string.sub(rest, 1, 1) == ':')
    keys[i] = is_own and before .. run .. rest or key
  end
  call = call_on(run, keys, call.positions, call.clock, packed_commands, 'start')
  call.again, call.args = was.again, {}        -- A is of the other call
  return was
end

function turns.session_id() return string.match(call.run, '^[^.]+') end

-- The part of a run's id after the session's id.
local function own_part() return string.match(call.run, '%.(.*)$') or '' end

-- Whether the session's current run is in progress.
function turns.is_busy(at)
  local was = turn_to(at)
  local status = redis.call('HGET', K.run, 'status')
  call = was
  return status == 'running' or status == 'restoring'
end

function turns.length() return redis.call('LLEN', K.line) end

-- The version of the state that the session's current run began with; nil if the state cannot be put back to that.
function turns.version_before(at)
  local was = turn_to(at)
  local version = tonumber(redis.call('HGET', K.run, 'state_version'))   -- not of a run of an earlier release
  call = was
  return version and versions.changes_to(version) and version
end

-- Ends the session's current run at any point: another one takes its place. With a version of the state, the state is
-- put back to it, and an edit in progress is lost.
function turns.interrupt(at, event, version)
  local was = turn_to(at)
  finish.from_outside('cancelled', event)
  if version then
    redis.call('UNLINK', K.lock)
    versions.put_back_and_journal(version)
  end
  was.interrupted = { run = at, ended = true, leaving = call.leaving, reports = call.reports, parted = call.parted }
  call = was
end

-- Adds the run to the end of the line; `at`, the current run, continues.
function turns.wait(at)
  call.awaits_admission = '1'
  redis.call('HSET', K.run, 'queued', '1', 'unbegun', '1', 'fills', A.fills, 'timeout', A.timeout or '')
  if A.limit then redis.call('HSET', K.run, 'limit', A.limit) end
  redis.call('SET', K.handler, at, 'KEEPTTL')
  redis.call('RPUSH', K.line, call.run)
  redis.call('ZADD', K.lines, 'NX', whole(call.now + A.redispatch), turns.session_id())
end

-- The run ends while it waits: takes it out of the line.
function turns.leave()
  redis.call('LREM', K.line, 1, call.run)
  redis.call('HDEL', K.run, 'queued', 'fills')
  if turns.length() == 0 then redis.call('ZREM', K.lines, turns.session_id()) end
end

-- Removes the expiry of the session's keys while a run of it is in progress.
function turns.persist()
  for _, name in ipairs({ 'state', 'versions', 'session', 'session_runs' }) do redis.call('PERSIST', K[name]) end
  redis.call('PERSIST', K.handler)
end

-- Makes this run the session's current one.
function turns.take()
  redis.call('SET', K.handler, call.run)
  redis.call('HSET', K.run, 'state_version', versions.present())
  turns.persist()
  redis.call('ZADD', K.sessions, call.now, turns.session_id())
  redis.call('ZADD', K.session_runs, whole(call.clock[1] * 1000000 + call.clock[2]), own_part())
  redis.call('ZREMRANGEBYRANK', K.session_runs, 0, -LISTED - 1)
end

-- Begins a run that has waited in line; if its workflow has a limit, it needs admission first.
function turns.begin(limit, timeout)
  redis.call('HDEL', K.run, 'queued', 'fills')
  turns.take()
  call.args = { turn = true, limit = limit, timeout = timeout }
  if limit then
    beginning.begin_or_wait(limit, timeout)
    journal.note('turn', { v = versions.present() })
  else
    beginning.begin(tonumber(timeout))
    publish.save()
  end
end

-- The session's run has ended: its keys expire unless `advance` begins another run.
function turns.expire()
  for _, name in ipairs({ 'handler', 'state', 'versions', 'session', 'session_runs' }) do
    redis.call('PEXPIRE', K[name], A.skeep)
  end
  redis.call('ZADD', K.sessions, call.now, turns.session_id())
  call.had_session = true
end

-- The run is deleted: removes it from the session's list.
function turns.unlist() redis.call('ZREM', K.session_runs, own_part()) end

-- Deletes the session.
function turns.forget()
  for _, name in ipairs({ 'handler', 'state', 'versions', 'session', 'session_runs' }) do
    redis.call('UNLINK', K[name])
  end
  redis.call('ZREM', K.sessions, turns.session_id())
end

-- Begins the first run in line: `call.following` is then that run, and the work for which the caller has to send
-- messages. A run that a process of an earlier release has ended is still in line, and is skipped.
function turns.advance()
  local run = redis.call('LPOP', K.line)
  while run and not call.following do
    local was = turn_to(run)
    local meta = redis.call('HMGET', K.run, 'status', 'queued', 'limit', 'timeout', 'fills', 'plan')
    if meta[1] == 'running' and meta[2] then
      call.packed_commands = meta[5]
      turns.begin(meta[3], meta[4])
      was.following = { run = run, plan = meta[6], dispatches = call.dispatches, limited = meta[3] and true }
    else
      run = redis.call('LPOP', K.line)
    end
    call = was
  end
  if turns.length() == 0 then redis.call('ZREM', K.lines, turns.session_id()) end
end
