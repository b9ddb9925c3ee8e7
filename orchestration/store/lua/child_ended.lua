-- A child run has ended; in the shard of its parent.
-- Args: run (the parent), child, status (absent: no end is reported, the child is only no longer checked), event
-- (the child's last one), unbegun (it was never started), parted (it was ended because of its parent), common limits.
-- Answers: told {dispatches, starts {children to be started} …} | again {looks} (the parent was rewound or retried and
-- waits for it again: the end that the parent caused is not reported, the child is retried) | known | closed |
-- unknown (no such parent or child);
-- without a status forgotten | kept (the parent waits for the end: it was retried since the caller looked).
-- A repeated call is answered `known`; the end counts once. A parent that has ended ignores it (`closed`); if it is
-- retried, it checks its children again.
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
