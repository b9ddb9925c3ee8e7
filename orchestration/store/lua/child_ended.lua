-- A child run has ended; in the shard of its parent.
-- Args: run (the parent), child, status (absent: nothing is reported, the child is only not looked at any more), event
-- (the child's last one), unbegun (it was never started), parted (its parent had no use for it and ended it), common
-- limits.
-- Answers: told {dispatches, starts {children to be started} …} | again {looks} (the parent was put back or retried and
-- waits for it again: what ended it for the parent is no answer to the parent, it is taken up) | known | closed |
-- unknown (no such parent or child);
-- without a status forgotten | kept (the parent waits for the end: it was retried since the caller looked).
-- Asked again it answers `known`; the end counts once. A parent that has ended takes no notice (`closed`); should it be
-- retried, it looks at its children again.
--!keys outbox

local status = counters.status()
local child = children.get(A.child)
if not A.status then
  if status == 'running' and child and children.is_wanted(child) then return { 'kept' } end
  redis.call('ZREM', K.outbox, 'child|' .. call.run .. '|' .. A.child)
  return { 'forgotten' }
end
if not status or not child then return { 'unknown' } end
redis.call('ZREM', K.outbox, 'child|' .. call.run .. '|' .. A.child)
if status ~= 'running' then return { 'closed' } end
call.source = A.child
if A.parted and children.is_wanted(child) then
  children.take_up(A.child, child)
  journal.note('child_again', { c = A.child, w = child.w })
  return apply.answer('again')
end
if not children.ended(A.child, child, A.status, A.event) then return { 'known' } end
apply.commands({})
journal.write('child', { c = A.child, st = A.status, w = child.w })
return apply.answer('told')
