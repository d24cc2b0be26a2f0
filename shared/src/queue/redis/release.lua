-- Returns received messages to the queue.
-- ARGV: when they become visible, 1 if that is later than now, then for each receipt its message ID
-- and receive count.
for at = 3, #ARGV, 2 do
  local id = ARGV[at]
  if holds(id, ARGV[at + 1]) then
    local receives, sent_at = read_meta(id)
    redis.call('HSET', meta, id, receives .. ' ' .. sent_at .. ' 0')
    redis.call('HDEL', holder, id)
    redis.call('ZADD', visible, ARGV[1], id)
    if ARGV[2] == '1' then
      redis.call('ZADD', held, ARGV[1], id)
    else
      redis.call('ZREM', held, id)
    end
  end
end
