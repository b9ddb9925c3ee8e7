-- ctx.store as of a version. Changes nothing. Args: run, version (the present one by default).
-- Answers: found version {field value …} | forgotten (as in `state_back`).
--!flags no-writes
--!keys state

local version = A.version or versions.present()
local changed = versions.changes_to(version)
if not changed then return { 'forgotten' } end
local flat, found = redis.call('HGETALL', K.state), {}
for i = 1, #flat, 2 do
  if changed[flat[i]] == nil then
    found[#found + 1] = flat[i]
    found[#found + 1] = flat[i + 1]
  end
end
for field, value in pairs(changed) do
  if value then
    found[#found + 1] = field
    found[#found + 1] = value
  end
end
return { 'found', whole(version), found }
