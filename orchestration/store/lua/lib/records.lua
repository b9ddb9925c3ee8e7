-- Work records, by work id: the only place in Lua that knows how they are stored, as a msgpack map with short keys.
-- Code uses long names, as in `record.step`. For a variable whose name is or ends in `record`, and in a constructor
-- `record = { … }`, the loader replaces the names below with the short keys. That costs a script nothing; a name that
-- is not below is an error. Python reads the same table (store/record.py). Fields of a newer version are kept as is.
--
--!field v version               of this schema; absent is 1, which had the same fields
--!field id work_id              set when it is made; later it is the name of the hash field
--!field s step                  name of the step that executes it
--!field nw num_workers          of that step
--!field q queue                 of the broker
--!field p priority              there, if it is not 0
--!field to time_limit           of an attempt, in ms
--!field st state                queued ready running delayed suspended parked failed
--!field sl slot                 of its step, once it has one
--!field d dispatch_no           how often it was dispatched
--!field da dispatched_at        the last time, in ms
--!field k redispatches          since then; the pause before the next one grows with it
--!field f failures              of attempts
--!field lt losses               of attempts, with their process
--!field l charged_losses        those that count against it: it was a suspect and alone
--!field u suspicion             how much it is suspected of killing processes; absent: not at all
--!field al alone                this attempt runs with no other suspect beside it
--!field late late               the last attempt exceeded its time limit and did not report
--!field r resumptions           how often a waiter of it was answered or timed out
--!field t token                 of the running attempt; only its holder may commit
--!field o owner                 the process that runs it
--!field c claim_id              made by that process
--!field fa first_attempt_at     in ms
--!field ca claimed_at           this attempt, in ms
--!field le last_error           as JSON, opaque here
--!field la last_failed_at       in ms
--!field e event_id              its event in K.events
--!field ed event                that event itself, where it is small and nothing else refers to it
--!field ev event_ids            instead of one: an event for each slot of a join
--!field en event_name           what traces call its input
--!field sc scope                path of the fan-outs around it
--!field rc recoveries           opaque
--!field rcs recoveries_each     of each of `event_ids`
--!field sid scope_id            of a fan-in: the fan-out that it gathers
--!field jn members              of a fan-in: how many events that are
--!field wd awaits               waiter id and delay (ms) of a suspension with a time-out
--!field aw awaited            of a suspension: how many child runs it waits for
--!field nh next_held          of these: the number of the next one that is held back
--!field x cancelled           while it was queued: a blank that is skipped
--!field wr answers              waiter id -> event id, false when it timed out
--!field wk kept                 waiter id -> child run of before the run was revived, which its step waits for again
--!field fb batches              flushed early by this attempt
--!field xs exchanges            state writes and collect_events calls of this attempt
--!field xc exchange_calls       the latter by name -> 1
--!field sent sent_early         an attempt has sent events before its end
--!field calls calls             its collect_events calls
--!field taken taken             logical names of the sets that these calls have returned to it
--!field segs segments           of a large fan-out, staged ahead of the commit -> size
--!keys work

records.VERSION = 2

function records.decode(packed) return cmsgpack.unpack(packed) end
function records.encode(record) return cmsgpack.pack(record) end

function records.get(wid)
  local raw = redis.call('HGET', K.work, wid)
  return raw and records.decode(raw)
end

function records.put(wid, record)
  redis.call('HSET', K.work, wid, records.encode(record))
end
