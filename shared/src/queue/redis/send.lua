-- ARGV: prefix, time of sending, then id, time at which it becomes visible, and body of each message.
for at = 3, #ARGV, 3 do
  -- One that is there already was sent by an earlier try, and may have been received since.
  if redis.call('HSETNX', p .. 'body', ARGV[at], ARGV[at + 2]) == 1 then
    redis.call('HSET', p .. 'meta', ARGV[at], '0 ' .. ARGV[2] .. ' 0')
    redis.call('ZADD', p .. 'visible', ARGV[at + 1], ARGV[at])
  end
end
