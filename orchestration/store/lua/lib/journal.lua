-- The run's journal.
--!keys journal
--!include call

-- Writes one entry: what happened, for the timeline and for rebuilding the run. `A.full` keeps the applied commands.
local function journal(kind, data)
  if A.full and ARGV[2] then
    redis.call('XADD', K.journal, 'MAXLEN', '~', A.jmax, '*', 'k', kind, 'd', cmsgpack.pack(data), 'c', ARGV[2])
  else
    redis.call('XADD', K.journal, 'MAXLEN', '~', A.jmax, '*', 'k', kind, 'd', cmsgpack.pack(data))
  end
end
