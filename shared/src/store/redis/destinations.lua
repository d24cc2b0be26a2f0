-- ARGV: prefix, now, this hour, the one before, how many of each. Of each destination: name, waiting, then of each hour delivered, failed
-- and latest error.
local hours, names, seen = { ARGV[3], ARGV[4] }, {}, {}
for _, hour in ipairs(hours) do
  for _, name in ipairs(redis.call('ZRANGE', p .. 'hour:' .. hour .. ':failed', 0, tonumber(ARGV[5]) - 1, 'REV')) do
    if not seen[name] then
      seen[name] = true
      names[#names + 1] = name
    end
  end
end
local found = {}
for _, name in ipairs(names) do
  local row = { name, redis.call('HGET', p .. 'waiting', name) or '0' }
  for _, hour in ipairs(hours) do
    local key = p .. 'hour:' .. hour .. ':'
    row[#row + 1] = {
      redis.call('HGET', key .. 'delivered', name) or '0',
      redis.call('ZSCORE', key .. 'failed', name) or '0',
      redis.call('HGET', key .. 'error', name) or '',
    }
  end
  found[#found + 1] = row
end
return found
