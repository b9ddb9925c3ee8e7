-- num_workers: numbered slots per step, the FIFO of work without a slot, and the ring of unclaimed dispatches.

-- A line is what a broker serves in order: 'queue/priority'.
local function line_of(record)
  return record.q .. '/' .. (record.p or 0)
end

local function unclaimed_add(wid, line, at)
  if redis.call('ZADD', K.unclaimed, whole(at), RUN .. '|' .. wid .. '|' .. line) == 1 then
    redis.call('HINCRBY', K.unclaimed_counts, line, 1)
  end
end

local function unclaimed_drop(wid, line)
  if redis.call('ZREM', K.unclaimed, RUN .. '|' .. wid .. '|' .. line) == 1 then
    if redis.call('HINCRBY', K.unclaimed_counts, line, -1) <= 0 then redis.call('HDEL', K.unclaimed_counts, line) end
  end
end

local function free_name(step, n) return step .. '/' .. string.format('%06d', n) end

-- The smallest free slot of a step, or nil when num_workers are taken.
local function take_slot(step, limit, wid)
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

local function give_slot(step, n, wid)
  local field = step .. '/' .. n
  local found = redis.call('HMGET', K.slots, field, step)
  if found[1] ~= wid then return false end   -- not ours: given back before
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
local function queue_push(step, packed)
  local t = redis.call('HINCRBY', K.queue, step .. ':t', 1)
  redis.call('HSET', K.queue, step .. ':' .. t, packed)
end

local function queue_pop(step)
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

local carry_on                   -- in carry.lua: the committing process takes ready work itself

-- Make a record that has a slot claimable, and ask for a dispatch.
local function dispatch(wid, record)
  if carry_on and carry_on(wid, record) then return end
  record.st = 'ready'
  record.d = (record.d or 0) + 1
  record.da = NOW
  record.t, record.o, record.c, record.ca = nil, nil, nil, nil
  put(wid, record)
  unclaimed_add(wid, line_of(record), NOW + A.redispatch)
  local message = A.push and A.push[wid]     -- the caller knew it would become ready, and where its message goes
  if message then
    redis.call('LPUSH', X[message[1]], message[2])
    return
  end
  dispatches[#dispatches + 1] = { w = wid, d = record.d, s = record.s, q = record.q, p = record.p or 0 }
end

-- Give a record a slot and dispatch it, or let it queue.
local function place(record)
  local n = not unbegun and take_slot(record.s, record.nw, record.id)
  if n then
    record.sl = n
    dispatch(record.id, record)
  else
    record.sl = nil
    record.st = 'queued'
    redis.call('HDEL', K.work, record.id)
    queue_push(record.s, cmsgpack.pack(record))
    trace(record.s, 'preparing', '<enqueued>', record.en)
  end
end

-- Give back a record's slot and let the next one in the FIFO have it.
local function vacate(record)
  if record.sl == nil or not give_slot(record.s, record.sl, record.id) then return end
  record.sl = nil
  local following = queue_pop(record.s)
  if following then
    following.sl = take_slot(following.s, following.nw, following.id)
    dispatch(following.id, following)
  end
end
