-- ARGV: prefix, now, the hour, the number of counters, then name and n of each counter, then of each destination: name, delivered,
-- failed, waiting, time of its latest error, and that error ('' for none).
local HOUR_MS = 3600000
local at = 5
for _ = 1, tonumber(ARGV[4]) do
  redis.call('HINCRBY', p .. 'counters', ARGV[at], ARGV[at + 1])
  at = at + 2
end
local hour = p .. 'hour:' .. ARGV[3] .. ':'
while ARGV[at] do
  local name, delivered, failed, waiting, error_at, text = unpack(ARGV, at, at + 5)
  redis.call('ZINCRBY', hour .. 'failed', failed, name)
  redis.call('HINCRBY', hour .. 'delivered', name, delivered)
  if text ~= '' then
    local latest = redis.call('HGET', hour .. 'error', name)
    if not latest or tonumber(string.match(latest, '^%d+')) <= tonumber(error_at) then
      redis.call('HSET', hour .. 'error', name, error_at .. ' ' .. text)
    end
  end
  if waiting ~= '0' and redis.call('HINCRBY', p .. 'waiting', name, waiting) == 0 then
    redis.call('HDEL', p .. 'waiting', name)
  end
  at = at + 6
end
-- Nobody asks for more than the current and the previous hour.
local gone_at = string.format('%.0f', (tonumber(ARGV[3]) + 4) * HOUR_MS)
for _, part in ipairs({ 'failed', 'delivered', 'error' }) do redis.call('PEXPIREAT', hour .. part, gone_at) end
