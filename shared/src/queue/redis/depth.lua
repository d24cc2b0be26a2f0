-- ARGV: prefix, now. All, hidden, and of the hidden those in flight.
local after = '(' .. ARGV[2]
return {
  redis.call('ZCARD', p .. 'visible'),
  redis.call('ZCOUNT', p .. 'visible', after, '+inf'),
  redis.call('ZCOUNT', p .. 'held', after, '+inf'),
}
