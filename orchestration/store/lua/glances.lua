-- What lists show of many runs of one shard, and whether a text is found in it. Changes nothing.
-- Args: run (any of them), x (1 … 3n, the record, the journal and the packed entries of each run; there are no other
--   keys), most (maximum bytes of an input or an error to search or return), find (a text in lower case, absent for
--   none), whole (whether to return inputs and errors).
-- Answers, for each run in order: its workflow, empty if it was deleted; the status to show, which for a running run
--   may also be queued (for its session or for admission) or waiting; whether its input or error has the text ('1' or
--   ''); and with `whole` the packed commands of its start, their size, and its terminal event, empty if too large or
--   missing.
--!flags no-writes

-- The packed commands of a run's start, which contain its start event, from the first entry of its journal; and their
-- size. If that entry was packed and they are large, only the size is available.
local function start_in(entries, packed)
  local kept = redis.call('HMGET', packed, 'start', 'size')
  if kept[2] then return kept[1], tonumber(kept[2]) end
  local first = redis.call('XRANGE', entries, '-', '+', 'COUNT', 1)[1]
  if not first then return '', 0 end
  local kind, commands
  for i = 1, #first[2], 2 do
    if first[2][i] == 'k' then kind = first[2][i + 1] end
    if first[2][i] == 'c' then commands = first[2][i + 1] end
  end
  commands = kind == 'start' and commands or ''
  return commands, #commands
end

-- Searches what people see: the values of the event, not the rest of its stored form.
local function is_in_input(packed)
  if packed == '' or #packed > A.most then return false end
  for _, command in ipairs(cmsgpack.unpack(packed)) do
    if command.o == 'keep' then
      -- Classes of field values are stored beside the values or after all of them, and are not shown.
      local shown = string.gsub(command.d, '"qualified_name": ?"[^"]*"', '')
      shown = string.gsub(shown, '"__exact":{.*$', '')
      local value = string.find(shown, '"value":', 1, true)
      return value and string.find(string.lower(shown), A.find, value + 8, true) ~= nil
    end
  end
  return false
end

local function is_in_error(status, ending)
  if status ~= 'failed' or #ending > A.most then return false end
  local is_read, found = pcall(cjson.decode, ending)
  local exception = is_read and type(found.value) == 'table' and found.value.exception
  local message = type(exception) == 'table' and exception.exception_message
  return type(message) == 'string' and string.find(string.lower(message), A.find, 1, true) ~= nil
end

local answers = {}
for i = 1, #A.x, 3 do
  local record = call.named[i]
  local entries = call.named[i + 1]
  local packed = call.named[i + 2]
  local workflow, status, live, asleep, unbegun, queued = unpack(
    redis.call('HMGET', record, 'workflow', 'status', 'live', 'asleep', 'unbegun', 'queued'))
  local shown = status or ''
  if status == 'running' and (unbegun or queued) then
    shown = 'queued'
  elseif status == 'running' and (live or '0') == (asleep or '0') then
    shown = 'waiting'
  end
  local start, size = '', 0
  if workflow and (A.find or A.whole) then start, size = start_in(entries, packed) end
  local ending = workflow and (A.find or A.whole) and redis.call('HGET', record, 'ending') or ''
  local is_found = A.find and (is_in_input(start) or is_in_error(status, ending))
  answers[#answers + 1] = workflow or ''
  answers[#answers + 1] = shown
  answers[#answers + 1] = is_found and '1' or ''
  if A.whole then
    answers[#answers + 1] = #start <= A.most and start or ''
    answers[#answers + 1] = tostring(size)
    answers[#answers + 1] = #ending <= A.most and ending or ''
  end
end
return answers
