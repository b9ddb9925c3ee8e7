-- Work records, by work id.
-- A record is a msgpack map: s step, q queue, p priority, st state (ready running delayed suspended parked failed),
-- d dispatch number, da dispatched at, f failures, l losses charged, u level of suspicion, al claimed with no other suspect beside it, r resumptions, t token, o owner, c claim id,
-- sl slot, nw num_workers, to time limit (ms), e event id | ev event ids | sid+jn fan-out and member count, en event name, sc scope path,
-- rc recoveries (opaque), ed the event itself where it is small and nobody else refers to it, fa first attempt at, ca claimed at, le last error (opaque), la last failed at,
-- wd waiter id and delay of a suspension with a time-out, fb flushed batches, xs state writes and collect_events calls of this attempt, xc the latter -> 1, wr waiter id -> event id or false.
--!keys work

local function get(wid)
  local raw = redis.call('HGET', K.work, wid)
  return raw and cmsgpack.unpack(raw)
end

local function put(wid, record)
  redis.call('HSET', K.work, wid, cmsgpack.pack(record))
end
