-- ARGV: prefix, now, destination, revision that the stored one must have ('' for none), revision, circuit as JSON ('' to remove it), its
-- place (when it was written, and 1e14 more if it opened), and the time before which one that nobody has written is forgotten.
local OPENED, MAX_PURGED = 1e14, 10
local destination = ARGV[3]
if (redis.call('HGET', p .. 'circuits:revision', destination) or '') ~= ARGV[4] then return 0 end
if ARGV[6] == '' then
  redis.call('HDEL', p .. 'circuits:revision', destination)
  redis.call('HDEL', p .. 'circuits', destination)
  redis.call('ZREM', p .. 'circuits:latest', destination)
else
  redis.call('HSET', p .. 'circuits:revision', destination, ARGV[5])
  redis.call('HSET', p .. 'circuits', destination, ARGV[6])
  redis.call('ZADD', p .. 'circuits:latest', ARGV[7], destination)
  for _, base in ipairs({ 0, OPENED }) do
    local stale = redis.call('ZRANGE', p .. 'circuits:latest', string.format('%.0f', base), string.format('(%.0f', base + tonumber(ARGV[8])),
      'BYSCORE', 'LIMIT', 0, MAX_PURGED)
    for _, name in ipairs(stale) do
      redis.call('HDEL', p .. 'circuits:revision', name)
      redis.call('HDEL', p .. 'circuits', name)
      redis.call('ZREM', p .. 'circuits:latest', name)
    end
  end
end
return 1
