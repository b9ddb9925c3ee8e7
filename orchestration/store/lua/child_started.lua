-- A child run has been started; in the shard of its parent. From now on it is looked at rarely, in case its end gets
-- lost.
-- Args: run (the parent), child, look (ms until then). Answers: noted | unknown. Repeating it changes nothing.
--!keys outbox

local child = children.get(A.child)
if not child then return { 'unknown' } end
if child.st == 'starting' or child.st == 'reviving' then
  child.st, child.sp = 'running', nil
  children.put(A.child, child)
end
if children.is_open(child) then
  redis.call('ZADD', K.outbox, 'XX', whole(call.now + A.look), 'child|' .. call.run .. '|' .. A.child)
end
return { 'noted' }
