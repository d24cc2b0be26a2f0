-- ARGV: time of sending, then id, time at which it becomes visible, and body of each message.
for at = 2, #ARGV, 3 do
  -- One that is there already was sent by an earlier try, and may have been received since.
  if redis.call('HSETNX', body, ARGV[at], ARGV[at + 2]) == 1 then
    redis.call('HSET', meta, ARGV[at], '0 ' .. ARGV[1] .. ' 0')
    redis.call('ZADD', visible, ARGV[at + 1], ARGV[at])
  end
end
