-- How long an ended run is kept (ms): what its workflow says, among the options it was started with, otherwise what the
-- settings say. `options` is that field of its hash, for a caller that has it. Called only when a run ends or after
-- that, so steps do not pay for it.
--!keys run

function retention.of_run(options)
  options = options or redis.call('HGET', K.run, 'options')
  local own = options and string.match(options, '"retention_ms":(%d+)')
  return own and tonumber(own) or A.keep
end
