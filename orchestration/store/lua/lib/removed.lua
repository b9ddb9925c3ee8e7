-- What the journal no longer has: entries that were packed (pack.lua), and entries that were dropped because it had
-- become too large.
--!keys journal

-- The number of these entries, the number of all entries there ever were, and the id of the last one, '' for none.
function removed.entries()
  if redis.call('EXISTS', K.journal) == 0 then return 0, 0, '' end
  local flat, about = redis.call('XINFO', 'STREAM', K.journal), {}
  for i = 1, #flat, 2 do about[flat[i]] = flat[i + 1] end
  local last = about['last-generated-id']
  return about['entries-added'] - about.length, about['entries-added'], last ~= '0-0' and last or ''
end
