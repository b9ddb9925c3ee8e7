-- Versions of a state (ctx.store). Each write makes the next version, starting with 1, and stores how to undo it, so
-- that the state can be read as of a version and put back to it. Every write to a state passes through here, except
-- those of a worker of an older release; so a difference has the digest of the value that it applies to.
-- Fields of K.versions: v the present version; n (a number) how to get from version n back to n - 1, as { set = {field
-- -> old value, or its difference (lib/deltas.lua) from the value of version n}, del = {field …} }; o the first n that
-- is kept. The last KEPT writes are kept, within A.jbytes of memory; with history `summary` none are.
--!keys state versions

local KEPT = 1000                           -- undoing this many takes 5 ms

function versions.present()
  return tonumber(redis.call('HGET', K.versions, 'v') or 0)
end

local function values_of(set, del, replace)
  if replace then
    local found, flat = {}, redis.call('HGETALL', K.state)
    for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
    return found
  end
  local found = {}
  for field in pairs(set) do found[field] = redis.call('HGET', K.state, field) or nil end
  for _, field in ipairs(del) do found[field] = redis.call('HGET', K.state, field) or nil end
  return found
end

local function keep_undo(n, old, set)
  if not A.full then
    redis.call('HSET', K.versions, 'o', n + 1)
    return
  end
  local undo = { set = {}, del = {} }
  for field, value in pairs(old) do
    local kept = set[field] and deltas.between(set[field], value) or value
    if type(kept) == 'table' then kept[4] = redis.sha1hex(set[field]) end
    undo.set[field] = kept
  end
  for field in pairs(set) do
    if not old[field] then undo.del[#undo.del + 1] = field end
  end
  local packed = cmsgpack.pack(undo)
  redis.call('HSET', K.versions, n, packed)
  local first = tonumber(redis.call('HGET', K.versions, 'o') or 1)
  local kept = n - first + 1
  if bounded.is_due(n, #packed, A.jbytes) then kept = bounded.affordable(K.versions, kept, A.jbytes) end
  if kept > KEPT then kept = KEPT end
  if n - kept + 1 > first then
    for i = first, n - kept do redis.call('HDEL', K.versions, i) end
    redis.call('HSET', K.versions, 'o', n - kept + 1)
  end
end

-- Writes to the state: set {field -> value}, del {field …}, replace (drop all other fields). Returns the version that
-- this makes, and `set` with differences for large values, as the journal keeps it; nil where there are none.
function versions.write(set, del, replace)
  local old = values_of(set, del, replace)
  local n = redis.call('HINCRBY', K.versions, 'v', 1)
  keep_undo(n, old, set)
  local kept, is_shorter = {}, false
  if replace then redis.call('UNLINK', K.state) end
  for _, field in ipairs(del) do redis.call('HDEL', K.state, field) end
  for field, value in pairs(set) do
    redis.call('HSET', K.state, field, value)
    kept[field] = A.full and deltas.between(old[field], value)
    is_shorter = is_shorter or type(kept[field]) == 'table'
  end
  return n, is_shorter and kept
end

-- The changes that make the state what it was as of a version: {field -> value, false to delete the field}; nil if that
-- version does not exist or the writes since are not kept.
function versions.changes_to(version)
  local changed, present = {}, versions.present()
  if version < 0 or version > present then return nil end
  for n = present, version + 1, -1 do
    local packed = redis.call('HGET', K.versions, n)
    if not packed then return nil end
    local undo = cmsgpack.unpack(packed)
    for field, value in pairs(undo.set) do
      local from = changed[field]
      if from == nil then from = redis.call('HGET', K.state, field) end
      if type(value) == 'table' and not (from and redis.sha1hex(from) == value[4]) then return nil end
      changed[field] = deltas.applied(from, value)
    end
    for _, field in ipairs(undo.del) do changed[field] = false end
  end
  return changed
end

-- Makes the state what it was as of a version: a write like any other. Returns the version that this makes, what it
-- set, as the journal keeps it, and what it deleted; nil as in `changes_to`, with nothing written.
function versions.put_back(version)
  local changed = versions.changes_to(version)
  if not changed then return nil end
  local set, del = {}, {}
  for field, value in pairs(changed) do
    if value then set[field] = value else del[#del + 1] = field end
  end
  local n, kept = versions.write(set, del)
  return n, kept or set, del
end

-- `put_back`, in the journal of the call's run. Returns the version that this makes; nil likewise.
function versions.put_back_and_journal(version)
  local n, set, del = versions.put_back(version)
  if not n then return nil end
  if A.full then call.packed_commands = cmsgpack.pack({ set = set, del = del }) end
  call.args = {}
  journal.write('state', { how = 'put_back', del = del, v = n, to = version })
  return n
end
