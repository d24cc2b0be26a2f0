-- ARGV: prefix, now, destination, revision that the stored one must have ('' for none), revision, circuit as JSON ('' to remove it), its
-- place among the worst.
local destination = ARGV[3]
if (redis.call('HGET', p .. 'circuits:revision', destination) or '') ~= ARGV[4] then return 0 end
if ARGV[6] == '' then
  redis.call('HDEL', p .. 'circuits:revision', destination)
  redis.call('HDEL', p .. 'circuits', destination)
  redis.call('ZREM', p .. 'circuits:worst', destination)
else
  redis.call('HSET', p .. 'circuits:revision', destination, ARGV[5])
  redis.call('HSET', p .. 'circuits', destination, ARGV[6])
  redis.call('ZADD', p .. 'circuits:worst', ARGV[7], destination)
end
return 1
