-- KEYS: waiting, then failed, delivered and error of this hour and of the one before. ARGV: how many of each. Of each destination: name,
-- waiting, then of each hour delivered, failed and latest error.
local HOURS, names, seen = { 2, 5 }, {}, {}
for _, failed in ipairs(HOURS) do
  for _, name in ipairs(redis.call('ZRANGE', KEYS[failed], 0, tonumber(ARGV[1]) - 1, 'REV')) do
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
