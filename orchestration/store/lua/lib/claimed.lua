-- Appends what a claim returns to a reply: the record, its events, the answers to its waiters.
--!keys events
function claimed.reply(reply, record, ...)
  local found = {}
  if record.event then
    found[1], record.event = record.event, nil
  else
    for i, id in ipairs(record.event_ids or { record.event_id }) do found[i] = redis.call('HGET', K.events, id) end
  end
  reply[#reply + 1] = cmsgpack.pack(record)
  for _, more in ipairs({ ... }) do reply[#reply + 1] = more end
  for _, event in ipairs(found) do reply[#reply + 1] = event end
  local answered = {}                           -- sorted, so that a repeated claim gets the same answer
  for waiter in pairs(record.answers or {}) do answered[#answered + 1] = waiter end
  table.sort(answered)
  for _, waiter in ipairs(answered) do
    local id = record.answers[waiter]
    reply[#reply + 1] = waiter
    reply[#reply + 1] = id and redis.call('HGET', K.events, id) or ''
  end
  return reply
end
