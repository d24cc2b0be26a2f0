-- Returns the destinations that failed most in either hour: name, waiting, then of each hour
-- delivered, failed and the latest error.
-- KEYS: waiting, then failed, delivered and error of this hour and of the previous one.
-- ARGV: how many of each hour.
local HOURS, names, seen = { 2, 5 }, {}, {}
for _, failed in ipairs(HOURS) do
  local most = redis.call('ZRANGE', KEYS[failed], 0, tonumber(ARGV[1]) - 1, 'REV')
  for _, name in ipairs(most) do
    if not seen[name] then
      seen[name] = true
      names[#names + 1] = name
    end
  end
end
local found = {}
for _, name in ipairs(names) do
  local row = { name, redis.call('HGET', KEYS[1], name) or '0' }
  for _, failed in ipairs(HOURS) do
    row[#row + 1] = {
      redis.call('HGET', KEYS[failed + 1], name) or '0',
      redis.call('ZSCORE', KEYS[failed], name) or '0',
      redis.call('HGET', KEYS[failed + 2], name) or '',
    }
  end
  found[#found + 1] = row
end
return found
