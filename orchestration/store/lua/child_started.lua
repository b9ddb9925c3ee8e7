-- A child run has been started, or a look has found it; in the shard of its parent, on whose stream its start is
-- published. It is checked again later, in case its end gets lost.
-- Args: run (the parent), child, look (ms until then), keep (what it was started with is kept until a look has found
-- it), found (a look has found it), common limits. Answers: noted | unknown. Repeating it changes nothing.
--!keys outbox

local child = children.get(A.child)
if not child then return { 'unknown' } end
if child.st == 'starting' or child.st == 'reviving' then
  local is_new = child.st == 'starting'
  child.st, child.sb, child.sp = 'running', A.keep and (child.sp or child.sb) or nil, nil
  children.put(A.child, child)
  if is_new and counters.status() == 'running' then
    children.announce(A.child, child)
    publish.save()
    journal.write('child_started', { c = A.child, w = child.w })
  else
    journal.note('child_started', { c = A.child, w = child.w })
  end
elseif A.found and child.sb then
  child.sb = nil
  children.put(A.child, child)
  journal.note('child_started', { c = A.child, w = child.w })
end
if children.is_open(child) then
  redis.call('ZADD', K.outbox, 'XX', whole(call.now + A.look), 'child|' .. call.run .. '|' .. A.child)
end
return { 'noted' }
