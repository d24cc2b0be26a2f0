-- Returns ids of the due index with their times, the oldest first.
-- KEYS: due. ARGV: until, how many, and the due time and the id of the last entry that was read, if
-- one was.
local due, last, count = KEYS[1], ARGV[1], tonumber(ARGV[2])
if not ARGV[3] then
  return redis.call('ZRANGE', due, '-inf', last, 'BYSCORE', 'LIMIT', 0, count, 'WITHSCORES')
end

-- Redis orders by bytes. Lua orders by the server's locale.
local function is_before(a, b)
  for at = 1, math.min(#a, #b) do
    local x, y = string.byte(a, at), string.byte(b, at)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- That entry may have moved since. Entries of one time are in the order of their ids, so a binary
-- search finds the first entry behind its place.
local low = redis.call('ZCOUNT', due, '-inf', '(' .. ARGV[3])
local high = redis.call('ZCOUNT', due, '-inf', ARGV[3])
while low < high do
  local middle = math.floor((low + high) / 2)
  if is_before(ARGV[4], redis.call('ZRANGE', due, middle, middle)[1]) then
    high = middle
  else
    low = middle + 1
  end
end
local left = redis.call('ZCOUNT', due, '-inf', last) - low
if left <= 0 then return {} end
return redis.call('ZRANGE', due, low, low + math.min(count, left) - 1, 'WITHSCORES')
