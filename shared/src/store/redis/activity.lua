-- Adds what an invocation counted.
-- KEYS: waiting, failed, delivered and error of the hour, counters, waiting:latest (destinations by
-- the latest change of their count in `waiting`).
-- ARGV: when the keys of the hour expire; now; the time before which an unchanged count of waiting
-- webhooks is deleted; the number of counters; name and n of each counter; then of each
-- destination: name, delivered, failed, waiting, time of its latest error, and the error ('' for
-- none).
local MAX_PURGED, SAMPLES = 10, 2
local waiting_key, failed_key, delivered_key, error_key, counters, latest = unpack(KEYS)
local function forget(name)
  redis.call('HDEL', waiting_key, name)
  redis.call('ZREM', latest, name)
end
local at = 5
for _ = 1, tonumber(ARGV[4]) do
  redis.call('HINCRBY', counters, ARGV[at], ARGV[at + 1])
  at = at + 2
end
while ARGV[at] do
  local name, delivered, failed, waiting, error_at, text = unpack(ARGV, at, at + 5)
  redis.call('ZINCRBY', failed_key, failed, name)
  redis.call('HINCRBY', delivered_key, name, delivered)
  if text ~= '' then
    local stored = redis.call('HGET', error_key, name)
    if not stored or tonumber(string.match(stored, '^%d+')) <= tonumber(error_at) then
      redis.call('HSET', error_key, name, error_at .. ' ' .. text)
    end
  end
  if waiting ~= '0' then
    if redis.call('HINCRBY', waiting_key, name, waiting) == 0 then
      forget(name)
    else
      redis.call('ZADD', latest, ARGV[2], name)
    end
  end
  at = at + 6
end
for _, key in ipairs({ failed_key, delivered_key, error_key }) do
  redis.call('PEXPIREAT', key, ARGV[1])
end
local unchanged =
  redis.call('ZRANGE', latest, '-inf', '(' .. ARGV[3], 'BYSCORE', 'LIMIT', 0, MAX_PURGED)
for _, name in ipairs(unchanged) do forget(name) end
-- Older versions stored no time with a count. Give a few counts one with each call.
for _, name in ipairs(redis.call('HRANDFIELD', waiting_key, SAMPLES)) do
  redis.call('ZADD', latest, 'NX', ARGV[2], name)
end
