-- The run's journal: what happened, for the timeline and for rebuilding the run, and what it led to.
--!keys journal

-- `call.led_to` is groups of { e event name, w {work id …}, s step, by where the event came from }.

-- An event led to a work item: to a new one, to a fan-in that gathers it, to one that waited for it; or to `outside`,
-- as a question to people, or to the `stop` of the run. `by` is given where it may come
-- from the source of another entry.
function journal.lead_to(work_id, step, event_name, by)
  call.led_to = call.led_to or {}
  local last = call.led_to[#call.led_to]
  if last and last.e == event_name and last.s == step and last.by == by then
    last.w[#last.w + 1] = work_id
  else
    call.led_to[#call.led_to + 1] = { e = event_name, w = { work_id }, s = step, by = by }
  end
end

-- Writes one entry, with all that this script led to so far. `A.full` keeps the applied commands.
function journal.write(kind, data)
  data.led_to = call.led_to
  local packed, commands = cmsgpack.pack(data), A.full and call.packed_commands
  if commands then
    redis.call('XADD', K.journal, 'MAXLEN', '~', A.jmax, '*', 'k', kind, 'd', packed, 'c', commands)
  else
    redis.call('XADD', K.journal, 'MAXLEN', '~', A.jmax, '*', 'k', kind, 'd', packed)
  end
  local length = kind ~= 'commit' and redis.call('XLEN', K.journal)
  if not bounded.is_due(length or counters.get('commits'), #packed + #(commands or ''), A.jbytes) then return end
  length = length or redis.call('XLEN', K.journal)
  local kept = bounded.affordable(K.journal, length, A.jbytes)
  if kept < length then redis.call('XTRIM', K.journal, 'MAXLEN', kept) end
end
