-- Sends messages. ARGV: time of sending, then for each message its ID, the time at which it becomes
-- visible, and its body.
for at = 2, #ARGV, 3 do
  -- An earlier try may have sent the message, and a worker may have received it.
  if redis.call('HSETNX', body, ARGV[at], ARGV[at + 2]) == 1 then
    redis.call('HSET', meta, ARGV[at], '0 ' .. ARGV[1] .. ' 0')
    redis.call('ZADD', visible, ARGV[at + 1], ARGV[at])
  end
end
