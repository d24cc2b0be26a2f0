-- KEYS: waiting, failed, delivered and error of the hour, counters. ARGV: when the hour's keys go, the number of counters, then name and n
-- of each counter, then of each destination: name, delivered, failed, waiting, time of its latest error, and that error ('' for none).
local waiting_key, failed_key, delivered_key, error_key, counters = unpack(KEYS)
local at = 3
for _ = 1, tonumber(ARGV[2]) do
  redis.call('HINCRBY', counters, ARGV[at], ARGV[at + 1])
  at = at + 2
end
while ARGV[at] do
  local name, delivered, failed, waiting, error_at, text = unpack(ARGV, at, at + 5)
  redis.call('ZINCRBY', failed_key, failed, name)
  redis.call('HINCRBY', delivered_key, name, delivered)
  if text ~= '' then
    local latest = redis.call('HGET', error_key, name)
    if not latest or tonumber(string.match(latest, '^%d+')) <= tonumber(error_at) then
      redis.call('HSET', error_key, name, error_at .. ' ' .. text)
    end
  end
  if waiting ~= '0' and redis.call('HINCRBY', waiting_key, name, waiting) == 0 then
    redis.call('HDEL', waiting_key, name)
  end
  at = at + 6
end
for _, key in ipairs({ failed_key, delivered_key, error_key }) do redis.call('PEXPIREAT', key, ARGV[1]) end
