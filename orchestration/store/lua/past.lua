-- A page of what is kept of a run's journal, packed entries included. Reads only.
-- Args: run, n (the maximum of entries from the journal itself; with 0 no content is answered), w (number of the entry
--   that is wanted; absent: the last one), id (of the one before it, where that is known), back (read from there
--   backwards: id is then that of the one after it).
-- Answers: live, how many entries the journal no longer has, how many it had in all, {entry …} | packed, the same two,
--   the name of the chunk that has the wanted entry, or of the next one that exists, and its content.
--!flags no-writes
--!keys journal packed

local cut, total = removed.entries()
local wanted = A.w or total
if wanted <= cut then
  local found, best
  for _, name in ipairs(redis.call('HKEYS', K.packed)) do
    local first, last = string.match(name, '^(%d+)%-(%d+)$')
    first, last = tonumber(first), tonumber(last)
    if first and A.back and first <= wanted and (not best or first > best) then
      found, best = name, first
    elseif first and not A.back and last >= wanted and (not best or last < best) then
      found, best = name, last
    end
  end
  if found then
    return { 'packed', cut, total, found, A.n > 0 and redis.call('HGET', K.packed, found) or '' }
  end
  if A.back then return { 'live', cut, total, {} } end
end
if A.n == 0 then return { 'live', cut, total, {} } end
if A.back then
  return { 'live', cut, total, redis.call('XREVRANGE', K.journal, A.id and '(' .. A.id or '+', '-', 'COUNT', A.n) }
end
local from = wanted > cut + 1 and A.id and '(' .. A.id or '-'
return { 'live', cut, total, redis.call('XRANGE', K.journal, from, '+', 'COUNT', A.n) }
