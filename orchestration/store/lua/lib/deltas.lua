-- Differences between an old and a new value: a large value that is edited a thousand times must not be stored a
-- thousand times.

-- Below SMALLEST a difference saves nothing; above LARGEST, computing it would take too long.
local SMALLEST, LARGEST = 256, 1048576

-- How many bytes two texts have in common, at most `most`; same(from, to) compares bytes counted from one end.
local function common(most, same)
  local low, high = 0, most
  while low < high do                          -- looks at each byte about once
    local middle = math.ceil((low + high) / 2)
    if same(low + 1, middle) then low = middle else high = middle - 1 end
  end
  return low
end

-- The new value; or { bytes of the old one kept at the front, bytes kept at the end, the rest }, if the rest is at most
-- half as long.
function deltas.between(old, new)
  if not old or #new < SMALLEST or #new > LARGEST or #old > LARGEST then return new end
  local sub, most = string.sub, math.min(#old, #new)
  local front = common(most, function(from, to) return sub(old, from, to) == sub(new, from, to) end)
  local back = common(most - front, function(from, to) return sub(old, -to, -from) == sub(new, -to, -from) end)
  if 2 * (front + back) < #new then return new end
  return { front, back, sub(new, front + 1, #new - back) }
end

-- The new value, from the old one and what `between` has returned.
function deltas.applied(old, kept)
  if type(kept) == 'string' then return kept end
  return string.sub(old, 1, kept[1]) .. kept[3] .. string.sub(old, #old - kept[2] + 1)
end
