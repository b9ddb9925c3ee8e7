-- num_workers: numbered slots per step, and the FIFO of work without a slot.
--!keys work slots free queue

local function free_name(step, n) return step .. '/' .. string.format('%06d', n) end

-- The smallest free slot of a step, or nil when num_workers are taken.
function slots.take(step, limit, wid)
  local high = tonumber(redis.call('HGET', K.slots, step) or 0)
  local lowest = high > 0 and
    redis.call('ZRANGEBYLEX', K.free, '[' .. step .. '/', '(' .. step .. '0', 'LIMIT', 0, 1)[1]
  if lowest then
    redis.call('ZREM', K.free, lowest)
    local n = tonumber(string.sub(lowest, #step + 2))
    redis.call('HSET', K.slots, step .. '/' .. n, wid)
    return n
  end
  if high >= limit then return nil end
  redis.call('HSET', K.slots, step, high + 1, step .. '/' .. high, wid)
  return high
end

function slots.give(step, n, wid)
  local field = step .. '/' .. n
  local found = redis.call('HMGET', K.slots, field, step)
  if found[1] ~= wid then return false end   -- no longer this work item's: already freed
  if n == 0 and found[2] == '1' then
    redis.call('HDEL', K.slots, field, step)
    return true
  end
  redis.call('HDEL', K.slots, field)
  if n + 1 < tonumber(found[2]) then
    redis.call('ZADD', K.free, 0, free_name(step, n))
  else
    redis.call('HSET', K.slots, step, n)
  end
  return true
end

-- FIFO in one hash: <step>:h and <step>:t are the consumed and the last index, <step>:<i> an entry.
-- An entry is a record, or {seg, n, i}: a staged segment of n records of which i are consumed.
function slots.push(step, packed)
  local t = redis.call('HINCRBY', K.queue, step .. ':t', 1)
  redis.call('HSET', K.queue, step .. ':' .. t, packed)
end

local function take_first(step)
  local ends = redis.call('HMGET', K.queue, step .. ':h', step .. ':t')
  local h, t = tonumber(ends[1] or 0), tonumber(ends[2] or 0)
  if h >= t then return nil end
  local field = step .. ':' .. (h + 1)
  local entry = cmsgpack.unpack(redis.call('HGET', K.queue, field))
  local record, spent = entry, true
  if entry.seg then
    entry.i = entry.i + 1
    local member = entry.seg .. '#' .. entry.i
    record = cmsgpack.unpack(redis.call('HGET', K.queue, member))
    redis.call('HDEL', K.queue, member)
    spent = entry.i >= entry.n
    if not spent then redis.call('HSET', K.queue, field, cmsgpack.pack(entry)) end
  end
  if spent then
    redis.call('HDEL', K.queue, field)
    if h + 1 >= t then
      redis.call('HDEL', K.queue, step .. ':h', step .. ':t')
    else
      redis.call('HSET', K.queue, step .. ':h', h + 1)
    end
  end
  return record
end

-- The queued records: work id -> its field, and the record.
function slots.in_line()
  local found, flat = {}, redis.call('HGETALL', K.queue)
  for i = 1, #flat, 2 do
    local record = not string.find(flat[i], ':[ht]$') and records.decode(flat[i + 1])
    if record and record.work_id then found[record.work_id] = { flat[i], record } end
  end
  return found
end

-- Writes back a record that slots.in_line has found.
function slots.put_in_line(field, record)
  redis.call('HSET', K.queue, field, records.encode(record))
end

-- Replaces a queued record that is cancelled with a blank.
function slots.blank(field)
  local record = { cancelled = 1 }
  redis.call('HSET', K.queue, field, records.encode(record))
end

-- Takes the first record out of the queue, skipping blanks.
function slots.pop(step)
  local record = take_first(step)
  while record and record.cancelled do
    if record.work_id then apply.done(record) end      -- a cancelled record of an earlier release
    record = take_first(step)
  end
  return record
end

-- Gives a record a slot and dispatches it, or queues it.
function slots.enqueue_or_dispatch(record)
  local n = not call.awaits_admission and slots.take(record.step, record.num_workers, record.work_id)
  if n then
    record.slot = n
    dispatch.work(record.work_id, record)
  else
    record.slot = nil
    record.state = 'queued'
    redis.call('HDEL', K.work, record.work_id)
    slots.push(record.step, records.encode(record))
    publish.state(record.step, 'preparing', '<enqueued>', record.event_name)
  end
end

-- Frees a record's slot and gives it to the next one in the FIFO.
function slots.release(record)
  if record.slot == nil or not slots.give(record.step, record.slot, record.work_id) then return end
  record.slot = nil
  local next_record = slots.pop(record.step)
  if next_record then
    next_record.slot = slots.take(next_record.step, next_record.num_workers, next_record.work_id)
    dispatch.work(next_record.work_id, next_record)
  end
end
