-- ARGV: prefix, time at which they become visible, whether that is later than now, then id and receives of each receipt.
for at = 4, #ARGV, 2 do
  local id = ARGV[at]
  if holds(id, ARGV[at + 1]) then
    local receives, sent_at = read_meta(id)
    redis.call('HSET', p .. 'meta', id, receives .. ' ' .. sent_at .. ' 0')
    redis.call('ZADD', p .. 'visible', ARGV[2], id)
    if ARGV[3] == '1' then redis.call('ZADD', p .. 'held', ARGV[2], id) else redis.call('ZREM', p .. 'held', id) end
  end
end
